"""Options that mean the same in every command of ``harken brain``, and how their results are told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harken.data.brain import Trials
    from harken.tasks.brain_evaluation import Evaluation

SIGNALS, JUDGING, RESULTS = "Signals", "Judging", "Results"

Data = Annotated[
    list[Path],
    typer.Argument(
        metavar="DATA...",
        help="Files with labelled trials: .npz, MNE's epochs (*-epo.fif), or recordings with events (EDF, BDF, GDF, "
        "FIF, BrainVision, EEGLAB, CSV). Several files are several sessions.",
    ),
]
Sfreq = Annotated[
    float | None,
    typer.Option(help="Rate in hertz: of files that do not say; others are resampled to it.", rich_help_panel=SIGNALS),
]
Tmin = Annotated[
    float | None,
    typer.Option(
        help="Where a trial begins: seconds from its event, or from the start of a ready trial.",
        rich_help_panel=SIGNALS,
    ),
]
Tmax = Annotated[float | None, typer.Option(help="Where a trial ends, seconds.", rich_help_panel=SIGNALS)]
Channels = Annotated[
    str | None,
    typer.Option(help="Which channels, by name, separated by commas.", show_default="all", rich_help_panel=SIGNALS),
]
Low = Annotated[
    float | None, typer.Option(help="Lower edge of a band-pass, hertz.", show_default="none", rich_help_panel=SIGNALS)
]
High = Annotated[
    float | None, typer.Option(help="Upper edge of a band-pass, hertz.", show_default="none", rich_help_panel=SIGNALS)
]
Notch = Annotated[
    float | None,
    typer.Option(help="Hertz of the mains, to take out of recordings.", show_default="none", rich_help_panel=SIGNALS),
]
Unit = Annotated[
    str, typer.Option(help="Of numbers in files that do not say: V, mV, uV or nV.", rich_help_panel=SIGNALS)
]
SplitOption = Annotated[
    str, typer.Option("--split", help="within-session, cross-session or cross-subject.", rich_help_panel=JUDGING)
]
Folds = Annotated[int, typer.Option(min=2, help="Of within-session.", rich_help_panel=JUDGING)]
Seeds = Annotated[int, typer.Option(min=1, help="How many times to train, from seeds 0, 1, …", rich_help_panel=JUDGING)]
Seed = Annotated[int, typer.Option(min=0, help="What every random choice follows from.", rich_help_panel=JUDGING)]
Plot = Annotated[Path | None, typer.Option(help="Draw the result into this picture.", rich_help_panel=RESULTS)]
Report = Annotated[Path | None, typer.Option(help="Write the result as JSON here.", rich_help_panel=RESULTS)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.", rich_help_panel=RESULTS)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.", rich_help_panel=RESULTS)]


def load_trials(
    data: Sequence[Path],
    *,
    sfreq: float | None = None,
    tmin: float | None = None,
    tmax: float | None = None,
    channels: str | None = None,
    low: float | None = None,
    high: float | None = None,
    notch: float | None = None,
    unit: str = "uV",
) -> Trials:
    """The trials of the files of a command line."""
    from harken.data.brain_files import trials_of_files

    return trials_of_files(
        data,
        sfreq=sfreq,
        tmin=tmin,
        tmax=tmax,
        channels=channel_names(channels),
        band=None if low is None and high is None else (low, high),
        notch=notch,
        unit=unit,
    )


def channel_names(channels: str | None) -> list[str] | None:
    """``"Cz, Pz"`` as a list."""
    return None if channels is None else [name.strip() for name in channels.split(",") if name.strip()]


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[float, str], None] | None]:
    """A bar on standard error that is called as ``progress(share done, note)``; None when quiet."""
    if quiet:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(
        BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task("", total=1.0)
        yield lambda done, note: bar.update(task, completed=done, description=note)


def tell(result: dict[str, Any], *, report: Path | None, as_json: bool, text: Callable[[], None]) -> None:
    """Write the JSON where it was asked for, and print it, or the text."""
    from harken.whole_files import write_text

    if report is not None:
        write_text(report, json.dumps(result, indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        text()


def print_evaluation(evaluation: Evaluation) -> None:
    """One line a decoder, with chance and notes."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("decoder", "accuracy", "± folds", "± seeds", "balanced", "kappa"):
        table.add_column(name, justify="left" if name == "decoder" else "right")
    for score in evaluation.scores:
        found = score.as_json()
        spread = f"{found['accuracy_std_over_folds']:.3f}", f"{found['accuracy_std_over_seeds']:.3f}"
        table.add_row(
            score.name,
            f"{found['accuracy']:.3f}",
            *spread,
            f"{found['balanced_accuracy']:.3f}",
            f"{found['kappa']:.3f}",
        )
    table.add_row("chance", f"{evaluation.chance:.3f}", "", "", "", "")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"{evaluation.split}: {evaluation.trials} trials judged, none of them trained on")
    for note in evaluation.notes:
        console.print(f"note: {note}")
