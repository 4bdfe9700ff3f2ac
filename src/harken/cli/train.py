"""``harken train``: weights of your own, from your own recordings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.train_ap_bwe import ap_bwe
from harken.cli.train_demucs import separator
from harken.cli.train_eeg_denoiser import eeg_denoiser
from harken.cli.train_hrtfformer import hrtfformer
from harken.cli.train_look_once import look_once
from harken.cli.training import (
    LENGTH,
    RUN,
    BatchSize,
    Ema,
    ItemWorkers,
    LearningRate,
    Precision,
    Resume,
    SaveEvery,
    Schedule,
    Seed,
    Steps,
    TrainDevice,
    ValidateEvery,
    amount,
    check_device,
    check_folder,
    need,
    run_training,
    split_recordings,
    talker,
)

if TYPE_CHECKING:
    from harken.models.enhance.codec import SpectrumEnhancer
    from harken.train.losses import EnhancementWeights

_DATA, _MODEL, _MIX = "Recordings", "Model and losses", "Mixtures"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    train = typer.Typer(no_args_is_help=True, help="Train a model on recordings of your own.")
    train.callback()(_one_command_each)
    for enhancer in ("mp-senet", "mambattention"):
        train.command(enhancer)(denoiser)
    train.command("ap-bwe")(ap_bwe)
    train.command("hrtfformer")(hrtfformer)
    train.command("eeg-denoiser")(eeg_denoiser)
    train.command("look-once")(look_once)
    for name in ("demucs", "conv-tasnet"):
        train.command(name)(separator)
    app.add_typer(train, name="train")


def _one_command_each() -> None:
    """Train a model on recordings of your own, one command for each system."""


def denoiser(
    context: typer.Context,
    clean: Annotated[
        list[Path],
        typer.Option(help="Folder of clean speech, searched in depth; may be repeated.", rich_help_panel=_DATA),
    ],
    noise: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of noise; may be repeated.", show_default="babble and synthesised", rich_help_panel=_DATA
        ),
    ] = None,
    held_out_clean: Annotated[
        list[Path] | None,
        typer.Option(
            help="Clean speech of other people, to judge on.",
            show_default="a tenth of the files",
            rich_help_panel=_DATA,
        ),
    ] = None,
    held_out_noise: Annotated[
        list[Path] | None,
        typer.Option(help="Other noises, to judge on.", show_default="a tenth of the files", rich_help_panel=_DATA),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/NAME", rich_help_panel=RUN),
    ] = None,
    resume: Resume = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from trained weights: a folder, checkpoint, Hub repository, or 'bundled'.", rich_help_panel=RUN
        ),
    ] = None,
    codec_from: Annotated[
        str | None,
        typer.Option(
            help="Start with the encoder and decoders of another enhancer: a slug (its bundled weights) or a folder.",
            rich_help_panel=RUN,
        ),
    ] = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    precision: Precision = "no",
    validate_every: ValidateEvery = 500,
    save_every: SaveEvery = 100,
    preset: Annotated[
        str | None,
        typer.Option(
            help="small (quick on a CPU) or paper; mp-senet: conformer too; mambattention: a core after a colon "
            "(small:xlstm, paper:lstm, paper:conformer).",
            show_default="small",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option(
            help="Any bidirectional mechanism that harken has; none, for mambattention, leaves it out.",
            show_default="softmax",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    loss: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WEIGHT",
            help="Weight of a loss: magnitude, phase, complex, consistency, time, loudness or metric; may be repeated.",
            show_default="by preset",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    adversary_from: Annotated[
        int | None,
        typer.Option(
            min=0, help="Step from which a discriminator learns PESQ.", show_default="never", rich_help_panel=_MODEL
        ),
    ] = None,
    adversary_every: Annotated[
        int, typer.Option(min=1, help="It learns at every so many steps: PESQ is slow.", rich_help_panel=_MODEL)
    ] = 1,
    pesq_workers: Annotated[
        int, typer.Option(min=0, help="Processes that compute PESQ.", show_default="none", rich_help_panel=_MODEL)
    ] = 0,
    seconds: Annotated[float, typer.Option(help="Length of a mixture.", rich_help_panel=_MIX)] = 1.0,
    snr: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="dB, drawn evenly between.", rich_help_panel=_MIX)
    ] = (-5.0, 20.0),
    rooms: Annotated[
        int, typer.Option(min=0, help="Simulate so many rooms (a quarter second each).", rich_help_panel=_MIX)
    ] = 0,
    reverb: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of speech put into a room.", show_default="0.5 with --rooms", rich_help_panel=_MIX
        ),
    ] = None,
    noise_reverb: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Share of noise put into a room.", show_default="0.5 with --rooms", rich_help_panel=_MIX
        ),
    ] = None,
    steps: Steps = 10_000,
    batch_size: BatchSize = 4,
    lr: LearningRate = 5e-4,
    schedule: Schedule = "cosine",
    warmup: Annotated[int, typer.Option(min=0, help="Steps of rising learning rate.", rich_help_panel=LENGTH)] = 100,
    ema: Ema = 0.999,
) -> None:
    """Train a model to clean noisy speech.

    Noisy mixtures are made on the fly, from your clean recordings and noises, so no pairs are needed: a quarter of an
    hour of speech by a few people is a start. The best weights by PESQ on recordings that were held out land in
    OUT/best, the latest in OUT/last, curves in OUT/curves. A run that was stopped or killed goes on with --resume.

    Example: harken train mp-senet --clean speech --noise noise --steps 2000

    Two processes: torchrun --nproc-per-node 2 -m harken train mp-senet --clean speech --noise noise
    """
    import torch

    from harken.data.mixing import MixConfig, Recordings
    from harken.errors import InputError
    from harken.train.enhancement import EnhancementRecipe
    from harken.train.loop import LoopConfig

    need("accelerate", "pesq")
    check_device(device)
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,  # type: ignore[arg-type]  # checked by LoopConfig, like precision
        warmup=warmup,
        ema=ema,
        validate_every=validate_every,
        save_every=save_every,
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
        workers=workers,
    )
    slug = str(context.info_name)
    out = out or Path("runs") / slug
    check_folder(out, resume=resume)
    torch.manual_seed(seed)
    model = _model(slug, preset, attention, init)
    if codec_from is not None:
        from harken.models import list_models, load

        known = codec_from in list_models("enhance")
        model.take_codec(load(codec_from if known else slug, None if known else codec_from))
    config = model.config
    if (reverb or noise_reverb) and not rooms:
        raise InputError("--reverb and --noise-reverb need simulated rooms: say how many, such as --rooms 100")
    weights = _loss_weights(loss or [], short=init is not None or preset in (None, "small"))
    share = 0.5 if rooms else 0.0
    mix = MixConfig(
        sample_rate=config.sample_rate,
        seconds=seconds,
        snr=snr,
        reverb=share if reverb is None else reverb,
        noise_reverb=share if noise_reverb is None else noise_reverb,
    )

    talk = talker()
    train_clean, judge_clean = split_recordings("clean", clean, held_out_clean)
    train_noise, judge_noise = split_recordings("noise", noise or [], held_out_noise)
    rate = config.sample_rate
    recordings = [Recordings(paths, rate) if paths else None for paths in (train_clean, train_noise)]
    held_out = [Recordings(paths, rate) if paths else None for paths in (judge_clean, judge_noise)]
    talk(f"{amount('clean speech', recordings[0])}, {amount('noise', recordings[1])}")
    talk(f"held out: {amount('clean speech', held_out[0])}, {amount('noise', held_out[1])}")
    responses = []
    if mix.reverb or mix.noise_reverb:
        from harken.data.rooms import room_responses

        need("pyroomacoustics", "scipy", extra="rooms")
        responses = room_responses(rooms, rate, seed)
    assert recordings[0] is not None and held_out[0] is not None
    recipe = EnhancementRecipe(
        model,
        recordings[0],
        recordings[1],
        (held_out[0], held_out[1]),
        mix=mix,
        weights=weights,
        adversary_from=adversary_from,
        adversary_every=adversary_every,
        rooms=responses,
        processes=pesq_workers,
    )
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    mixing = getattr(config, "attention", None) or "no"
    talk(f"{count:,} parameters, {mixing} attention; {steps} steps of {batch_size} mixtures into '{out}'")
    named = "" if slug == "mp-senet" else f"--model {slug} "  # what enhance takes without a name
    use = f"harken enhance {named}--weights {{}} noisy.wav"
    run_training(recipe, loop, out, resume=resume, device=device, describe=_metrics, use=use)


def _model(slug: str, preset: str | None, attention: str | None, init: str | None) -> SpectrumEnhancer:
    """The model to train: one that is trained already, or a new one."""
    from dataclasses import replace
    from typing import Any

    from harken.attention import list_attention
    from harken.errors import InputError
    from harken.models import load, model_class

    if init is not None:
        if preset is not None or attention is not None:
            raise InputError("--init brings its own configuration: leave --preset and --attention out")
        trained: Any = load(slug, None if init == "bundled" else init)
        return trained
    build: Any = model_class(slug)
    presets: dict[str, Callable[[], Any]] = {"small": build.Config.small, "paper": build.Config}
    name, _, core = (preset or "small").partition(":")
    if slug == "mp-senet":
        presets["conformer"] = build.Config.conformer
    if name not in presets or (core and slug == "mp-senet"):
        raise InputError(f"--preset takes {', '.join(presets)}, got '{preset}'")
    changes: dict[str, Any] = {"core": core} if core else {}
    if attention is not None:
        usable = list_attention(bidirectional=True, grid=False) + (["none"] if slug == "mambattention" else [])
        if attention not in usable:
            raise InputError(f"--attention takes {', '.join(usable)}, got '{attention}'")
        changes["attention"] = None if attention == "none" else attention
    return build(replace(presets[name](), **changes))


def _loss_weights(given: list[str], *, short: bool) -> EnhancementWeights:
    """The preset's weights with those that were given in their place."""
    from dataclasses import asdict, replace

    from harken.errors import InputError
    from harken.train.losses import EnhancementWeights

    weights = EnhancementWeights.short_training() if short else EnhancementWeights()
    for entry in given:
        name, _, value = entry.partition("=")
        try:
            weight = float(value)
        except ValueError:
            weight = -1.0
        if name not in asdict(weights) or not 0 <= weight < 1e6:
            raise InputError(f"--loss takes NAME=WEIGHT with one of {', '.join(asdict(weights))}, got '{entry}'")
        weights = replace(weights, **{name: weight})
    return weights


def _metrics(metrics: dict[str, float]) -> str:
    return f"WB-PESQ {metrics['pesq_wb']:.2f}, SI-SDR {metrics['si_sdr']:.1f} dB"
