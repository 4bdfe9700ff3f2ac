"""``harken score``: metrics for what a system made, against what it should have been."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harken.tasks.score import ScoreReport

_MOST_ROWS = 40
_MOST_UNMATCHED = 5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    verbs = typer.Typer(help="Score outputs against references.", no_args_is_help=True)
    verbs.command("enhance", no_args_is_help=True)(score_enhance)
    # a group of one command would otherwise become that command
    verbs.callback()(_group)
    app.add_typer(verbs, name="score")


def _group() -> None:
    """Score outputs against references."""


def score_enhance(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The clean recording, or a folder of them.")],
    estimate: Annotated[Path, typer.Argument(metavar="EST", help="What a system made of it, or a folder.")],
    metrics: Annotated[str | None, typer.Option(help="Which to compute, separated by commas; all by default.")] = None,
    json_target: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - is standard output.")
    ] = None,
    align: Annotated[bool, typer.Option("--align", help="Find the delay of EST (up to 50 ms) and remove it.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for a folder; as many as pay by default.")
    ] = None,
) -> None:
    """Score enhanced speech against its clean reference.

    Two files, or two folders paired by name (then by name without suffix). Higher is better, except for lsd.

    \b
    pesq_wb  1.0 to 4.64   overall quality, wide band (ITU-T P.862.2)
    pesq_nb  1.0 to 4.55   overall quality, telephone band
    stoi     0 to 1        how much of the speech is understood
    estoi    0 to 1        the same where the noise fluctuates
    si_sdr   dB            signal to distortion at the best scale;
                           any delay ruins it: see --align
    segsnr   -10 to 35 dB  signal to noise, mean of 30-ms frames;
                           a delay or a gain ruins it
    csig     1 to 5        predicted rating of the speech signal
    cbak     1 to 5        predicted rating of the background
    covl     1 to 5        predicted rating of the whole
    lsd      0 and up      distance between log spectra (lower is better)

    A dash is a metric without a value for that file (PESQ without speech, SI-SDR of silence); means leave it out.
    Exits with 1 when a pair of a folder could not be scored, with 2 when nothing could.

    Examples: harken score enhance clean/ enhanced/ --metrics pesq_wb,stoi,si_sdr

    harken score enhance clean.wav enhanced.wav --json -
    """
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from harken.data.audio import check_target
    from harken.tasks.score import score

    if json_target not in (None, "-"):
        check_target(str(json_target))  # now, not after the work
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    columns = (TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    errors = Console(stderr=True)
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        bar = bars.add_task("", total=None)

        def advance(name: str, done: float, total: float) -> None:
            bars.update(bar, completed=done, total=total)

        report = score(reference, estimate, metrics=names, align=align, workers=workers, progress=advance)
    if json_target == "-":
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
    elif json_target is not None:
        report.save(json_target)
    _print_report(report, Console(stderr=json_target == "-"))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _print_report(report: ScoreReport, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from harken.score import METRICS

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold")
    names = [*report.metrics, *(["delay_ms"] if any("delay_ms" in file.scores for file in report.files) else [])]
    for name in names:
        title, unit = (METRICS[name].title, METRICS[name].unit) if name in METRICS else ("delay", "ms")
        table.add_column(f"{title}\n{unit}".strip(), justify="right")
    many = len(report.files) > 1
    if len(report.files) <= _MOST_ROWS:
        for file in report.files:
            table.add_row(Text(str(Path(file.name).with_suffix(""))), *(_cell(file.scores[name]) for name in names))
    if many:
        mean = report.mean
        table.add_section()
        table.add_row(
            f"mean of {len(report.files)}", *(_cell(mean[n]) if n in mean else "" for n in names), style="bold"
        )
    if report.files:
        console.print(table)
    for file in report.files[:_MOST_ROWS]:
        for note in file.notes:
            console.print(Text(f"note: {file.name}: {note}", style="dim"))
    for path in report.unmatched[:_MOST_UNMATCHED]:
        console.print(Text(f"no partner: {path}", style="yellow"))
    if len(report.unmatched) > _MOST_UNMATCHED:
        console.print(Text(f"no partner: {len(report.unmatched) - _MOST_UNMATCHED} more", style="yellow"))
    for name, message in report.errors:
        console.print(Text(f"not scored: {name}: {message}", style="red"))


def _cell(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"
