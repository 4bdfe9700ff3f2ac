"""``harken score``: metrics for what a system made, against what it should have been."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.score_extend import score_extend

if TYPE_CHECKING:
    from rich.console import Console

    from harken.tasks.score import ScoreReport
    from harken.tasks.score_separation import SeparationReport

_MOST_ROWS = 40
_MOST_UNMATCHED = 5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    verbs = typer.Typer(help="Score outputs against references.", no_args_is_help=True)
    verbs.command("enhance", no_args_is_help=True)(score_enhance)
    verbs.command("separation", no_args_is_help=True)(score_separation_files)
    verbs.command("extend", no_args_is_help=True)(score_extend)
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
    print_report(report, Console(stderr=json_target == "-"))
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def score_separation_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="REF... EST...", help="The clean sources, then as many estimates in the same order."),
    ],
    metrics: Annotated[str | None, typer.Option(help="Which to compute, separated by commas; all by default.")] = None,
    encoder: Annotated[
        str, typer.Option(help="raw, spectrum, or a speech model of Hugging Face by name: wavlm, hubert-base...")
    ] = "raw",
    layer: Annotated[int, typer.Option(min=0, help="The speech model's hidden layer.")] = 2,
    uncertainty: Annotated[bool, typer.Option(help="Compute error radii and confidence half-widths.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the noises among the distortions.")] = 0,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw PS and PM over time.")] = None,
    json_target: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - is standard output.")
    ] = None,
) -> None:
    """Score separated sources against the clean ones, per 20-ms frame and as a whole. Higher is better.

    Files in one order: REF1 REF2 EST1 EST2; or two folders whose files are paired by name.

    \b
    ps      0 to 1  perceptual separation (MAPSS): is what is heard this
                    source, or does another leak into it
    pm      0 to 1  perceptual match (MAPSS): is it as near to its
                    reference as mild distortions of the reference are
    si_sdr  dB      signal to distortion at the best scale
    sdr     dB      signal to distortion, any short filter forgiven
    sir     dB      signal to interference of the other sources
    sar     dB      signal to artifacts

    PS and PM are means over the frames in which the source and another one are heard.

    Examples: harken score separation a.wav b.wav est_a.wav est_b.wav --plot scores.png

    harken score separation clean/ separated/ --encoder wavlm --layer 24 --json scores.json
    """
    import json

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from harken.data.audio import check_target
    from harken.errors import InputError
    from harken.tasks.score_separation import score_separation, sources_of_folders

    for target in (plot, json_target if json_target != "-" else None):
        if target is not None:
            check_target(str(target))  # now, not after the work
    if len(files) == 2 and all(file.is_dir() for file in files):
        references, estimates = sources_of_folders(*files)
    else:
        if len(files) % 2:
            raise InputError(f"{len(files)} files cannot be references and as many estimates: REF1 REF2 EST1 EST2")
        references, estimates = files[: len(files) // 2], files[len(files) // 2 :]
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    errors = Console(stderr=True)
    columns = (TextColumn("scoring"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        bar = bars.add_task("", total=1.0)
        report = score_separation(
            references,
            estimates,
            metrics=names,
            encoder=encoder,
            layer=layer,
            uncertainty=uncertainty,
            seed=seed,
            plot=plot,
            progress=lambda done: bars.update(bar, completed=done),
        )
    if json_target == "-":
        typer.echo(json.dumps(report.to_dict(), ensure_ascii=False, allow_nan=False))
    elif json_target is not None:
        report.save(json_target)
    _print_separation(report, Console(stderr=json_target == "-"))


def _print_separation(report: SeparationReport, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    from harken.tasks.score_separation import METRICS

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("source", overflow="fold")
    for name in report.metrics:
        table.add_column(f"{name.upper().replace('_', '-')}\n{METRICS[name]}".strip(), justify="right")
    table.add_column("seconds\njudged", justify="right")
    for source in report.sources:
        cells = (_cell(source.scores[name]) for name in report.metrics)
        table.add_row(Text(source.name), *cells, f"{source.frames * 0.02:.1f}" if report.frames else "-")
    table.add_section()
    mean = report.mean
    table.add_row("mean", *(_cell(mean[name]) for name in report.metrics), "", style="bold")
    console.print(table)
    for note in report.notes:
        console.print(Text(f"note: {note}", style="dim"))


def print_report(report: ScoreReport, console: Console) -> None:
    """The scores as a table, with what could not be scored."""
    from rich.table import Table
    from rich.text import Text

    from harken.score import EXTENSION_METRICS, METRICS

    known = METRICS | EXTENSION_METRICS
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("file", overflow="fold")
    names = [*report.metrics, *(["delay_ms"] if any("delay_ms" in file.scores for file in report.files) else [])]
    for name in names:
        title, unit = (known[name].title, known[name].unit) if name in known else ("delay", "ms")
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
