"""``harken write``: train a small language model on text of your own, and let it write."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harken.cli.training import check_device, need, run_training, talker

_MODEL, _LENGTH, _RUN = "Model", "How long, how fast", "The run"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    write = typer.Typer(no_args_is_help=True, help="Train a language model on your text, and let it write.")
    write.callback()(_group)
    write.command("train", no_args_is_help=True)(train)
    write.command("generate", no_args_is_help=True)(generate)
    app.add_typer(write, name="write")


def _group() -> None:
    """Train a language model on your text, with any attention in any layer, and let it write."""


def train(
    text: Annotated[list[Path], typer.Argument(metavar="TEXT", help="Text files, or folders of them.")],
    attention: Annotated[
        str,
        typer.Option(
            help="A causal mechanism, with options behind a colon (span:span_size=64); several, separated by spaces, "
            "take turns through the layers.",
            rich_help_panel=_MODEL,
        ),
    ] = "softmax",
    dim: Annotated[int, typer.Option(min=1, help="Channels.", rich_help_panel=_MODEL)] = 128,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.", rich_help_panel=_MODEL)] = 4,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads in a block.", rich_help_panel=_MODEL)] = 4,
    norm: Annotated[str, typer.Option(help="layer, rms or simple-rms.", rich_help_panel=_MODEL)] = "layer",
    ffn: Annotated[str, typer.Option(help="gelu, swiglu or none.", rich_help_panel=_MODEL)] = "gelu",
    positions: Annotated[
        str, typer.Option(help="sinusoidal, learned (up to --length) or none.", rich_help_panel=_MODEL)
    ] = "sinusoidal",
    length: Annotated[int, typer.Option(min=1, help="Bytes of a training crop.", rich_help_panel=_LENGTH)] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Steps in all.", rich_help_panel=_LENGTH)] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops a step and process.", rich_help_panel=_LENGTH)] = 16,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_LENGTH)] = 1e-3,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.", rich_help_panel=_RUN)] = Path(
        "runs/write"
    ),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in --out, exactly where it stopped.", rich_help_panel=_RUN),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and crops.", rich_help_panel=_RUN)] = 0,
    device: Annotated[
        str, typer.Option(help="auto takes a GPU where there is one; cpu does not.", rich_help_panel=_RUN)
    ] = "auto",
    validate_every: Annotated[
        int, typer.Option(min=1, help="Steps from one validation to the next.", rich_help_panel=_RUN)
    ] = 250,
    save_every: Annotated[
        int, typer.Option(min=1, help="Steps from one save to the next: what a kill costs.", rich_help_panel=_RUN)
    ] = 250,
) -> None:
    """Train a byte-level language model on text files.

    It reads bytes, so any language will do and no tokenizer is needed. The last tenth of the text is held out and
    judges the model in bits per byte (8 knows nothing; English with a small model after some minutes, about 2). The
    best weights land in OUT/best.

    Examples: harken write train shakespeare.txt --steps 1000

    harken write train book.txt --attention "span:span_size=64 softmax" --length 1024
    """
    import torch

    from harken.data.text import read_text
    from harken.models.write.decoder import Decoder, DecoderConfig
    from harken.train.language import LanguageRecipe
    from harken.train.loop import LoopConfig

    need("accelerate")
    check_device(device)
    config = DecoderConfig(
        dim=dim,
        layers=layers,
        heads=heads,
        attention=tuple(attention.split()),
        norm=norm,  # type: ignore[arg-type]  # checked by the model, like ffn
        ffn=ffn,  # type: ignore[arg-type]
        positions=positions,
        longest=length,
    )
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        betas=(0.9, 0.95),
        clip_norm=1.0,
        validate_every=validate_every,
        save_every=save_every,
        seed=seed,
    )
    torch.manual_seed(seed)
    recipe = LanguageRecipe(Decoder(config), read_text(text), length=length)
    talk = talker()
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    talk(f"{len(recipe.text):,} bytes of text; {count:,} parameters, {', '.join(config.attention)} attention")
    run_training(
        recipe,
        loop,
        out,
        resume=resume,
        device=device,
        describe=_metrics,
        use="harken write generate --weights {} --prompt 'Once'",
    )


def generate(
    weights: Annotated[str, typer.Option(help="Folder of a trained model, such as runs/write/best.")],
    prompt: Annotated[str, typer.Option(help="What the text begins with; - reads it from stdin.")] = "\n",
    length: Annotated[int, typer.Option("--length", "-n", min=1, help="Bytes to write.")] = 500,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest byte, 1 draws as learned.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw among the so many likeliest bytes.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw among the fewest bytes that hold this share of the probability.")
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(help="What softmax layers keep: full, window-256-4 (last and first bytes), heavy-128-128 (H2O)."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
) -> None:
    """Let a trained model go on from a prompt, byte after byte, to stdout.

    The attention's state is kept from byte to byte: constant in size for the linear family, growing for softmax unless
    --cache bounds it.

    Example: harken write generate --weights runs/write/best --prompt "ROMEO:" --top-p 0.9
    """
    import torch

    from harken.attention.cache import use_cache
    from harken.errors import InputError
    from harken.models import load
    from harken.models.write.generation import generate as tokens

    model = load("decoder", weights)
    if cache is not None:
        use_cache(model, cache)
    start = (sys.stdin.buffer.read() if prompt == "-" else prompt.encode()) or b"\n"
    if model.config.positions == "learned" and len(start) + length > model.config.longest:
        most = model.config.longest
        raise InputError(f"the model learned {most} positions: prompt and --length may have {most} bytes together")
    made = tokens(
        model,
        torch.frombuffer(bytearray(start), dtype=torch.uint8).long()[None],
        length,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        generator=torch.Generator().manual_seed(seed),
    )
    out = sys.stdout.buffer
    out.write(start)
    for token in made:
        out.write(bytes([min(int(token), 255)]))
        out.flush()
    out.write(b"\n")
    out.flush()


def _metrics(metrics: dict[str, float]) -> str:
    return f"{metrics['bits_per_byte']:.3f} bits per byte"
