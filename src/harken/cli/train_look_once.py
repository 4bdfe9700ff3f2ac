"""``harken train look-once``: weights of your own for ``harken extract``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.training import (
    LENGTH,
    RUN,
    BatchSize,
    Ema,
    Init,
    ItemWorkers,
    Precision,
    Resume,
    SaveEvery,
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
    from harken.models.separate.speaker_encoder import SpeakerEncoder
    from harken.train.extraction import Sources

_DATA, _MODEL = "Recordings", "Model"


def look_once(
    speech: Annotated[
        list[Path],
        typer.Option(
            help="Speech, searched in depth: a folder for each talker, or LibriSpeech's names. May be repeated.",
            rich_help_panel=_DATA,
        ),
    ],
    held_out_speech: Annotated[
        list[Path], typer.Option(help="Speech of other people, to judge on.", rich_help_panel=_DATA)
    ],
    part: Annotated[
        str, typer.Option(help="extractor, or enrolment (who is it, from a noisy clip).", rich_help_panel=_MODEL)
    ] = "extractor",
    noise: Annotated[
        list[Path] | None, typer.Option(help="Folder of noise.", show_default="computed", rich_help_panel=_DATA)
    ] = None,
    held_out_noise: Annotated[
        list[Path] | None,
        typer.Option(help="Other noises, to judge on.", show_default="a tenth of the files", rich_help_panel=_DATA),
    ] = None,
    heads: Annotated[
        list[Path] | None,
        typer.Option(
            help="Responses of heads: SOFA files or CIPIC's listeners, searched in depth.",
            show_default="none: one microphone",
            rich_help_panel=_DATA,
        ),
    ] = None,
    held_out_heads: Annotated[
        list[Path] | None,
        typer.Option(help="Other heads, to judge on.", show_default="a tenth of them", rich_help_panel=_DATA),
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            help="Weights of a d-vector encoder, such as Resemblyzer's pretrained.pt.",
            show_default="Resemblyzer's where it is installed, else those that ship",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="small (learns on a CPU) or paper (2 M parameters).", rich_help_panel=_MODEL)
    ] = "small",
    encoder: Annotated[
        str,
        typer.Option(
            help="For --part enrolment: d-vector (the teacher, taught to hear through noise) or tf-gridnet "
            "(the paper's, from nothing).",
            rich_help_panel=_MODEL,
        ),
    ] = "d-vector",
    seconds: Annotated[
        float | None,
        typer.Option(help="Length of an item.", show_default="1.5, for enrolment 2.4", rich_help_panel=_DATA),
    ] = None,
    talkers: Annotated[int, typer.Option(min=1, max=16, help="Most talkers at once.", rich_help_panel=_DATA)] = 2,
    steps: Steps = 3000,
    batch_size: BatchSize = 4,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate.", show_default="2e-3; d-vector 2e-4", rich_help_panel=LENGTH),
    ] = None,
    ema: Ema = 0.99,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/look-once-PART", rich_help_panel=RUN),
    ] = None,
    resume: Resume = False,
    init: Init = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    precision: Precision = "no",
    validate_every: ValidateEvery = 250,
    save_every: SaveEvery = 50,
) -> None:
    """Train Look Once to Hear: the extractor of one talker, or the encoder that enrols them.

    Binaural mixtures are made on the fly from your speech, noise and heads. Both parts learn from the embeddings of a
    d-vector encoder (the teacher). The best weights on people, noises and heads that were held out land in OUT/best,
    the latest in OUT/last, curves in OUT/curves. A run that was stopped or killed goes on with --resume.

    Example: harken train look-once --speech libri/train --held-out-speech libri/test --noise noise --heads cipic
    """
    import torch

    from harken.data.mixing import Recordings
    from harken.data.spatial_mixing import SpatialConfig, Talkers
    from harken.errors import InputError
    from harken.train.extraction import EnrolmentRecipe, ExtractionRecipe, Sources
    from harken.train.loop import LoopConfig

    need("accelerate", "scipy")
    check_device(device)
    for name, value, known in (
        ("part", part, ("extractor", "enrolment")),
        ("preset", preset, ("small", "paper")),
        ("encoder", encoder, ("d-vector", "tf-gridnet")),
    ):
        if value not in known:
            raise InputError(f"--{name} takes {' or '.join(known)}, got '{value}'")
    out = out or Path(f"runs/look-once-{part}")
    check_folder(out, resume=resume)
    tunes = part == "enrolment" and encoder == "d-vector"
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr or (2e-4 if tunes else 2e-3),
        betas=(0.9, 0.999),
        weight_decay=0.0,
        ema=ema,
        validate_every=validate_every,
        save_every=save_every,
        precision=precision,  # type: ignore[arg-type]  # checked by LoopConfig
        seed=seed,
        workers=workers,
    )
    mix = SpatialConfig(seconds=seconds or (2.4 if part == "enrolment" else 1.5), talkers=(min(2, talkers), talkers))
    talk = talker()
    taught_by = _teacher(teacher)
    rate = taught_by.sample_rate
    noises = split_recordings("noise", noise, held_out_noise) if noise else ([], [])
    ears = _split_heads(heads or [], held_out_heads)
    sources, judged = (
        Sources(
            Talkers(voices, rate),
            Recordings(some, rate) if some else None,
            _heads(listeners, rate) if listeners else None,
        )
        for voices, some, listeners in zip((speech, held_out_speech), noises, ears, strict=True)
    )
    for name, these in (("train", sources), ("held out", judged)):
        talk(f"{name}: {_told(these)}, {amount('noise', these.noise)}")
    torch.manual_seed(seed)
    model = _model(part, preset, encoder, init, taught_by)
    common: dict[str, Any] = {"mix": mix}
    recipe: Any = (
        EnrolmentRecipe(model, sources, judged, taught_by, **common)
        if part == "enrolment"
        else ExtractionRecipe(model, sources, judged, taught_by, **common)
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    talk(f"{count:,} parameters; {steps} steps of {batch_size} items into '{out}'")
    option = "--weights" if part == "extractor" else "--encoder-weights"
    use = f"harken extract {option} {{}} mix.wav --enroll clip.wav"
    run_training(recipe, loop, out, resume=resume, device=device, describe=_metrics, use=use)


def _teacher(weights: str | None) -> SpeakerEncoder:
    """The d-vector encoder of a file; else of the installed Resemblyzer (whose weights are read, not its code)."""
    from importlib.util import find_spec

    from harken.errors import CheckpointError
    from harken.models import load, weights_folder

    if weights is None:
        spec = find_spec("resemblyzer")
        if spec is not None and spec.submodule_search_locations:
            weights = str(Path(next(iter(spec.submodule_search_locations))) / "pretrained.pt")
        elif weights_folder("speaker-encoder") is None:
            raise CheckpointError(
                "no d-vector encoder to learn from: pip install --no-deps resemblyzer, or pass --teacher pretrained.pt"
            )
    made: SpeakerEncoder = load("speaker-encoder", weights)
    return made


def _model(part: str, preset: str, encoder: str, init: str | None, teacher: SpeakerEncoder) -> Any:
    from dataclasses import replace

    from harken.models import load
    from harken.models.separate.enrolment import EnrolmentConfig, EnrolmentNet
    from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear

    size = teacher.config.embedding_dim
    if part == "extractor":
        if init is not None:
            return load("look-once-to-hear", init)
        presets = {"small": LookOnceConfig.small, "paper": LookOnceConfig.paper}
        return LookOnceToHear(replace(presets[preset](), embedding_dim=size))
    if encoder == "d-vector":
        return teacher.facing_front() if init is None else load("speaker-encoder", init)
    if init is not None:
        return load("look-once-enrolment", init)
    sizes = {"small": EnrolmentConfig.small, "paper": EnrolmentConfig.paper}
    return EnrolmentNet(replace(sizes[preset](), embedding_dim=size))


def _split_heads(folders: list[Path], held_out: list[Path] | None) -> tuple[list[Path], list[Path]]:
    from harken.data.hrtf import find_listeners

    found = [path for folder in folders for path in find_listeners(folder)]
    if held_out or len(found) < 2:
        return found, [path for folder in held_out or folders for path in find_listeners(folder)]
    kept = len(found) - max(1, len(found) // 10)
    return found[:kept], found[kept:]


def _heads(listeners: list[Path], rate: int) -> Any:
    from harken.data.spatial_mixing import Heads

    return Heads.read(listeners, rate)


def _told(sources: Sources) -> str:
    heads = 0 if sources.heads is None else len(sources.heads)
    return f"{len(sources.talkers)} talkers ({sources.talkers.seconds / 60:.1f} min), {heads or 'no'} heads"


def _metrics(metrics: dict[str, float]) -> str:
    if "cosine" in metrics:
        return f"cosine {metrics['cosine']:.3f}, told apart {metrics['told_apart']:.0%}"
    return (
        f"SI-SDR gain {metrics['si_sdr_gain']:.2f} dB (at {metrics['si_sdr']:.2f}), "
        f"ILD off by {metrics['ild_error']:.1f} dB, ITD by {metrics['itd_error']:.0f} us"
    )
