"""``harken train demucs`` and ``harken train conv-tasnet``: weights of your own for ``harken separate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.training import (
    RUN,
    BatchSize,
    Ema,
    Init,
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
    check_device,
    check_folder,
    need,
    run_training,
    split_recordings,
    talker,
)

if TYPE_CHECKING:
    from harken.data.stem_mixing import StemPool
    from harken.models.separate._separator import Separator

_DATA, _MODEL, _MIX = "Stems", "Model and loss", "Mixing"


def separator(
    context: typer.Context,
    tracks: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of tracks, each a folder with one file a source (drums.wav...); may be repeated.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="A source whose recordings go with any of the others, such as speech=talks noise=streets; repeat it.",
            rich_help_panel=_DATA,
        ),
    ] = None,
    stems: Annotated[
        str | None,
        typer.Option(help="Sources to learn, in order: drums,bass,other,vocals.", show_default="all in the tracks"),
    ] = None,
    held_out_tracks: Annotated[
        list[Path] | None,
        typer.Option(help="Tracks to judge on.", show_default="a tenth of the tracks", rich_help_panel=_DATA),
    ] = None,
    held_out_source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="Recordings to judge on.",
            show_default="a tenth of the files",
            rich_help_panel=_DATA,
        ),
    ] = None,
    rate: Annotated[
        int | None,
        typer.Option(help="Hz.", show_default="44100 for tracks, 16000 for sources", rich_help_panel=_MODEL),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(min=1, max=2, help="1 or 2.", show_default="2 for tracks, 1 for sources", rich_help_panel=_MODEL),
    ] = None,
    preset: Annotated[str, typer.Option(help="small (quick on a CPU) or paper.", rich_help_panel=_MODEL)] = "small",
    size: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="A size of the preset, such as depth=4; may be repeated.", rich_help_panel=_MODEL
        ),
    ] = None,
    loss: Annotated[str, typer.Option(help="l1 or mse.", rich_help_panel=_MODEL)] = "l1",
    diffq: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Learn how few bits the weights need, at this price for a MiB (the paper's model: 3e-4).",
            show_default="float32",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(min=2, max=15, help="Train for so many bits alike, DiffQ's baseline.", rich_help_panel=_MODEL),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Length of an item.", rich_help_panel=_MIX)] = 3.0,
    remix: Annotated[
        int, typer.Option(min=1, help="Swap stems between so many items; 1 for never.", rich_help_panel=_MIX)
    ] = 4,
    repitch: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of tracks played up to 2 semitones off.", rich_help_panel=_MIX),
    ] = 0.0,
    scale: Annotated[
        tuple[float, float], typer.Option(metavar="LOW HIGH", help="Gain of each stem.", rich_help_panel=_MIX)
    ] = (0.25, 1.25),
    steps: Steps = 10_000,
    batch_size: BatchSize = 4,
    lr: LearningRate = 3e-4,
    schedule: Schedule = "cosine",
    ema: Ema = 0.999,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the run.", show_default="runs/NAME", rich_help_panel=RUN),
    ] = None,
    resume: Resume = False,
    init: Init = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    precision: Precision = "no",
    validate_every: ValidateEvery = 500,
    save_every: SaveEvery = 100,
) -> None:
    """Train a model to take mixtures apart.

    Mixtures are made on the fly from your stems, shifted, scaled and swapped between tracks. Give --tracks for stems
    that belong together, or --source for each kind of recordings that do not. The best weights by SDR on what was held
    out land in OUT/best, the latest in OUT/last, curves in OUT/curves. A run that was stopped or killed goes on with
    --resume.

    Example: harken train demucs --tracks songs --steps 3000

    Example: harken train conv-tasnet --source speech=talks --source noise=streets --steps 3000
    """
    import torch

    from harken.data.stem_mixing import StemConfig
    from harken.errors import InputError
    from harken.train.loop import LoopConfig
    from harken.train.separation import SeparationRecipe

    need("accelerate")
    check_device(device)
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        schedule=schedule,  # type: ignore[arg-type]  # checked by LoopConfig, like precision
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
    if bool(tracks) == bool(source):
        raise InputError("give --tracks FOLDER, or --source NAME=FOLDER for each source: one of the two")
    torch.manual_seed(seed)
    if tracks:
        rate, channels = rate or 44100, channels or 2
        sources = tuple(stems.split(",")) if stems else _common_sources(tracks)
    else:
        rate, channels = rate or 16000, channels or 1
        sources = tuple(_named(source or []))
        if stems and set(stems.split(",")) != set(sources):
            raise InputError(f"--stems {stems} and the sources {','.join(sources)} differ: leave --stems out")
    model = _model(slug, preset, size or [], init, sources, rate, channels)
    talk = talker()
    if tracks:
        pool, judged = _track_pools(tracks, held_out_tracks, model)
    else:
        pool, judged = _recorded_pools(_named(source or []), _named(held_out_source or []), model)
    talk(f"{', '.join(model.sources)}: {pool.seconds / 60:.1f} min; held out: {judged.seconds / 60:.1f} min")
    mixing = StemConfig(round(seconds * model.sample_rate), remix=remix, repitch=repitch, scale=scale)
    recipe = SeparationRecipe(
        model,
        pool,
        judged,
        mixing=mixing,
        loss=loss,  # type: ignore[arg-type]  # checked by the recipe
        diffq=diffq,
        bits=bits,
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    talk(f"{count:,} parameters; {steps} steps of {batch_size} items of {seconds:g} s into '{out}'")
    talk(f"to beat, the mixture itself: {_metrics(recipe.score_of_input())}")
    named = "" if slug == "demucs" else f"--model {slug} "  # what separate takes without a name
    use = f"harken separate {named}--weights {{}} mix.wav"
    run_training(recipe, loop, out, resume=resume, device=device, describe=_metrics, use=use)


def _named(given: list[str]) -> dict[str, list[Path]]:
    """``NAME=FOLDER``, repeated, as folders by name in the order given."""
    from harken.errors import InputError

    found: dict[str, list[Path]] = {}
    for entry in given:
        name, _, folder = entry.partition("=")
        if not name or not folder:
            raise InputError(f"--source takes NAME=FOLDER, got '{entry}'")
        found.setdefault(name, []).append(Path(folder))
    return found


def _common_sources(tracks: list[Path]) -> tuple[str, ...]:
    """What every track has, the paper's four first and in its order; a mixture is none."""
    from harken.data.stem_mixing import stem_files, track_folders
    from harken.errors import InputError

    found = [set(stem_files(track)) for folder in tracks for track in track_folders(folder)]
    shared = set.intersection(*found) - {"mix", "mixture"} if found else set()
    order = ("drums", "bass", "other", "vocals")
    if len(shared) < 2:
        raise InputError(f"the tracks in {', '.join(map(str, tracks))} share fewer than two files: name them alike")
    return tuple(sorted(shared, key=lambda name: (order.index(name) if name in order else len(order), name)))


def _model(
    slug: str, preset: str, size: list[str], init: str | None, sources: tuple[str, ...], rate: int, channels: int
) -> Separator:
    """The model to train: one that is trained already, or a new one."""
    from dataclasses import fields, replace

    from harken.errors import InputError
    from harken.models import load, model_class

    if init is not None:
        if size or preset != "small":
            raise InputError("--init brings its own configuration: leave --preset and --size out")
        trained: Separator = load(slug, init)
        return trained
    build: Any = model_class(slug)
    known = {"sources": sources, "sample_rate": rate, "audio_channels": channels, "segment_length": 10 * rate}
    presets = {"small": lambda: build.Config.small(sources, rate, channels), "paper": lambda: build.Config(**known)}
    if preset not in presets:
        raise InputError(f"--preset takes {', '.join(presets)}, got '{preset}'")
    config = presets[preset]()
    numbers = {field.name for field in fields(config) if type(getattr(config, field.name)) in (int, float, bool)}
    changes: dict[str, Any] = {}
    for entry in size:
        name, _, value = entry.partition("=")
        if name not in numbers - known.keys():
            raise InputError(f"--size takes NAME=VALUE with one of {', '.join(sorted(numbers - known.keys()))}")
        kind = type(getattr(config, name))
        try:
            changes[name] = value in ("1", "true", "yes") if kind is bool else kind(value)
        except ValueError:
            raise InputError(f"--size {name} takes a number, got '{value}'") from None
    return build(replace(config, **changes))


def _track_pools(tracks: list[Path], held_out: list[Path] | None, model: Separator) -> tuple[StemPool, StemPool]:
    """Training tracks, and those to judge on: the last tenth where none are named."""
    from harken.data.stem_mixing import Tracks, track_folders
    from harken.errors import InputError

    train = [track for folder in tracks for track in track_folders(folder)]
    judge = [track for folder in held_out or [] for track in track_folders(folder)]
    if not judge:
        kept = len(train) - max(1, len(train) // 10)
        train, judge = train[:kept], train[kept:]
    if not train:
        raise InputError("one track cannot both train and judge: give more, or --held-out-tracks FOLDER")
    shape = (model.sources, model.sample_rate, model.audio_channels)
    return Tracks(train, *shape), Tracks(judge, *shape)


def _recorded_pools(
    folders: dict[str, list[Path]], held_out: dict[str, list[Path]], model: Separator
) -> tuple[StemPool, StemPool]:
    """Training recordings, and those to judge on: the last tenth of a source's files where none are named."""
    from harken.data.stem_mixing import Recorded
    from harken.errors import InputError

    if set(folders) != set(model.sources):
        raise InputError(f"expected --source for {', '.join(model.sources)}, got {', '.join(folders)}")
    pairs = {name: split_recordings(name, folders[name], held_out.get(name)) for name in model.sources}
    shape = (model.sample_rate, model.audio_channels)
    train, judge = ({name: pair[part] for name, pair in pairs.items()} for part in (0, 1))
    return Recorded(train, *shape), Recorded(judge, *shape)


def _metrics(metrics: dict[str, float]) -> str:
    parts = [f"{name.removeprefix('sdr_')} {value:.1f}" for name, value in metrics.items() if name.startswith("sdr_")]
    size = f", {metrics['mib']:.2f} MiB" if "mib" in metrics else ""
    return f"SDR {metrics['sdr']:.2f} dB ({', '.join(parts)}){size}"
