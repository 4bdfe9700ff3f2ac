"""``harken brain chirp``: find chirps in recordings, judge the locator on synthetic ones, train it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.models.brain.chirp_locator import ChirpLocator
    from harken.tasks.find_chirps import ChirpReport, SyntheticScore

_LOCATOR, _TRAINING = "Locator", "Training"

Weights = Annotated[
    Path | None,
    typer.Option(help="Folder that 'train' wrote.", show_default="what ships with harken", rich_help_panel=_LOCATOR),
]
Method = Annotated[
    str,
    typer.Option(help="network, or ridge: follow the brightest row, nothing learned.", rich_help_panel=_LOCATOR),
]


def register(brain: typer.Typer) -> None:
    """Add the commands."""
    chirp = typer.Typer(no_args_is_help=True, help="Find chirps: rhythms whose frequency glides.")
    chirp.callback()(_group)
    for command in (find, evaluate, train):
        chirp.command(no_args_is_help=command is not evaluate)(command)
    brain.add_typer(chirp, name="chirp")


def _group() -> None:
    """Find chirps, rhythms whose frequency glides, as at the start of some seizures (arXiv 2503.22713).

    The locator has seen synthetic chirps alone, as in the paper: look at the figure before you believe what it finds
    in recordings.
    """


def find(
    recording: Annotated[Path, typer.Argument(help="EDF, BDF, GDF, FIF, BrainVision, EEGLAB, .npz or CSV.")],
    weights: Weights = None,
    method: Method = "network",
    window: Annotated[
        float, typer.Option(help="Seconds of a window; a chirp lasts up to a quarter.", rich_help_panel=_LOCATOR)
    ] = 60.0,
    max_frequency: Annotated[
        float | None,
        typer.Option(help="Hertz up to which to look.", show_default="100, or half the rate", rich_help_panel=_LOCATOR),
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="How far a trace must stand out; higher finds fewer.", rich_help_panel=_LOCATOR)
    ] = 6.0,
    sfreq: options.Sfreq = None,
    channels: options.Channels = None,
    low: options.Low = None,
    high: options.High = None,
    notch: options.Notch = None,
    unit: options.Unit = "uV",
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Find chirps in every channel of a recording: start and end in seconds and hertz, and how far each stands out.

    Each frequency is compared with its own background, so slopes of the spectrum and steady hum do not matter.

    Example: harken brain chirp find seizure.edf --channels "T3,T5" --window 30 --plot seizure.png
    """
    from harken.data.brain_files import read_recording
    from harken.figures import require_matplotlib
    from harken.tasks.find_chirps import draw_chirps_found, find_chirps

    if plot is not None:
        require_matplotlib()
    found = read_recording(recording, sfreq=sfreq, channels=options.channel_names(channels), unit=unit)
    if (low, high, notch) != (None, None, None):
        found = found.filtered(low, high, notch)
    top = min(100.0, found.sfreq / 2) if max_frequency is None else max_frequency
    locator = _locator(weights, method, duration=window, max_frequency=top)
    with options.progress_bar(quiet) as progress:
        result = find_chirps(locator, found, threshold=threshold, progress=progress)
    if plot is not None:
        draw_chirps_found(result, found, plot, max_frequency=top)
    options.tell(result.as_json(), report=report, as_json=as_json, text=lambda: _print(result))


def evaluate(
    synthetic: Annotated[int, typer.Option("--synthetic", min=3, help="How many pictures.")] = 1000,
    weights: Weights = None,
    whole_bins: Annotated[
        bool, typer.Option("--whole-bins", help="Cut chirps to whole bins, as the paper's generator does.")
    ] = False,
    seed: options.Seed = 0,
    report: options.Report = None,
    as_json: options.AsJson = False,
) -> None:
    """Judge the locator on synthetic chirps it was not trained on, beside following the brightest row.

    Example: harken brain chirp evaluate --synthetic 2000
    """
    from harken.tasks.find_chirps import judge_on_synthetic

    locators = {name: _locator(weights, name) for name in ("network", "ridge")}
    result = judge_on_synthetic(locators, synthetic, seed=seed, sub_bin=not whole_bins)
    options.tell(result.as_json(), report=report, as_json=as_json, text=lambda: _print_score(result))


def train(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights.")],
    pictures: Annotated[
        int, typer.Option(min=1, help="Synthetic pictures to see; none comes twice.", rich_help_panel=_TRAINING)
    ] = 150_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures a step.", rich_help_panel=_TRAINING)] = 32,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_TRAINING)] = 2e-3,
    whole_bins: Annotated[
        bool,
        typer.Option(
            "--whole-bins", help="Cut chirps to whole bins, as the paper's generator does.", rich_help_panel=_TRAINING
        ),
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Start from the weights in this folder.", rich_help_panel=_TRAINING)
    ] = None,
    attention: Annotated[
        str, typer.Option(help="A bidirectional mechanism, with options behind a colon.", rich_help_panel=_TRAINING)
    ] = "softmax",
    seed: options.Seed = 0,
    report: options.Report = None,
    quiet: options.Quiet = False,
) -> None:
    """Train the locator on synthetic chirps. The best weights so far are in OUT after every 3000 pictures.

    150,000 pictures take ten minutes of one core.

    Example: harken brain chirp train --out runs/chirp --pictures 60000
    """  # fmt: skip
    from dataclasses import replace

    import torch

    from harken.data.chirps import ChirpGrid
    from harken.models import load
    from harken.models.brain.chirp import ChirpLocalizer, ChirpLocalizerConfig
    from harken.models.brain.chirp_training import Lesson, teach

    torch.manual_seed(seed)
    model: Any
    if init is not None:
        model = load("chirp-localization", init).train()
    else:
        model = ChirpLocalizer(replace(ChirpLocalizerConfig.small(), attention=(attention,)))
    size = model.config.image_size
    lesson = Lesson(pictures, min(3000, pictures), batch_size, lr, sub_bin=not whole_bins)
    epochs = max(1, round(pictures / lesson.epoch))
    best = [float("inf")]
    with options.progress_bar(quiet) as progress:

        def told(epoch: int, entry: dict[str, float]) -> None:
            if entry["validation_loss"] < best[0]:
                best[0] = entry["validation_loss"]
                model.save_pretrained(out)
            if progress is not None:
                progress((epoch + 1) / epochs, f"loss {entry['loss']:.3f}, unseen {entry['validation_loss']:.3f}")

        history = teach(model, lesson, ChirpGrid(times=size, frequencies=size), seed=seed, on_epoch=told)
    model.save_pretrained(out)
    result = {"weights": str(out), "best_validation_loss": best[0], "history": history}

    def text() -> None:
        typer.echo(f"{out}: best validation loss {best[0]:.4f} after {pictures:,} pictures")
        typer.echo(f"judge it: harken brain chirp evaluate --weights {out}")

    options.tell(result, report=report, as_json=False, text=text)


def _locator(weights: Path | None, method: str, **parameters: Any) -> ChirpLocator:
    from harken.errors import InputError
    from harken.models.brain.chirp_locator import ChirpLocator

    if method not in ("network", "ridge"):
        raise InputError(f"--method takes network or ridge, got '{method}'")
    if method == "ridge":
        return ChirpLocator(method="ridge", **parameters).fit()
    if weights is None:
        return ChirpLocator.pretrained(**parameters)
    from harken.models import load

    made = ChirpLocator(**parameters)
    made.module_, made.history_ = load("chirp-localization", weights), []
    return made


def _print(result: ChirpReport) -> None:
    typer.echo(f"{result.name}: {len(result.chirps)} chirps in {result.seconds:.1f} s")
    for chirp in result.chirps:
        kind = "exponential" if chirp.is_exponential else "linear"
        typer.echo(
            f"  {result.ch_names[chirp.channel]}: {chirp.start_time:.1f} to {chirp.end_time:.1f} s, "
            f"{chirp.start_frequency:.1f} to {chirp.end_frequency:.1f} Hz, {kind}, strength {chirp.strength:.1f}"
        )


def _print_score(result: SyntheticScore) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("locator", "start time", "start frequency", "end frequency", "errors"):
        table.add_column(name, justify="left" if name == "locator" else "right")
    for name, found in result.correlation.items():
        time, low, high = result.error[name].values()
        table.add_row(name, *(f"{value:.3f}" for value in found.values()), f"{time:.2f} s, {low:.1f} Hz, {high:.1f} Hz")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Pearson correlations and mean absolute errors on {result.pictures:,} unseen pictures")
