"""``harken papers``, ``harken claim`` and ``harken parity``: what is implemented, what holds, and how exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from harken.papers.parity import ParityReport

_STYLES = {
    "works": "green",
    "partial": "yellow",
    "planned": "dim",
    "holds": "green",
    "holds in direction": "yellow",
    "not shown here": "dim",
    "fails here": "red",
}


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("papers")(papers)
    app.command("claim")(claim)
    app.command("parity")(parity)


def papers(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Words to look for in slug, title, arXiv id or call.")
    ] = None,
    verb: Annotated[str | None, typer.Option(help="Only what this verb reaches: enhance, brain, ...")] = None,
    status: Annotated[str | None, typer.Option(help="Only works, partial or planned.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """List the papers: how to reach each system, whether it works, and which of its claims held here.

    A paper works when our model matches the authors' tensors (harken parity), does its job on real input, and its
    claims have been run (harken claim).

    Example: harken papers --verb enhance
    """
    from harken.papers.table import paper_rows, status_text

    rows = paper_rows(" ".join(text or []), verb=verb, status=status)
    if as_json:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False))
        return

    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("#", justify="right", style="dim")
    table.add_column("paper", no_wrap=True)
    for name in ("title", "reached by", "status", "claims"):
        table.add_column(name, overflow="fold")
    for row in rows:
        verdicts = _coloured("\n").join(
            _coloured(f"{name}: {verdict}", verdict) for name, verdict in row.verdicts.items()
        )
        table.add_row(
            str(row.number),
            row.slug,
            _coloured(row.title),
            _coloured("\n".join(row.reached_by)),
            _coloured(status_text(row), row.status),
            verdicts,
        )
    console = Console()
    if rows:
        console.print(table)
    counts = [f"{sum(row.status == name for row in rows)} {name}" for name in ("works", "partial", "planned")]
    console.print(f"{len(rows)} papers: {', '.join(counts)}", highlight=False)


def claim(
    slugs: Annotated[list[str] | None, typer.Argument(metavar="SLUG", help="Papers, as `harken papers` lists.")] = None,
    only: Annotated[str | None, typer.Option(help="The one claim to run.", metavar="NAME")] = None,
    seed: Annotated[int, typer.Option(min=0, help="What every random choice follows from.")] = 0,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: seconds, and numbers that mean nothing.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Where the JSON records go.", file_okay=False)] = Path("docs/claims"),
    every: Annotated[bool, typer.Option("--all", help="Every paper that has claims.")] = False,
) -> None:
    """Test what a paper claims: a scaled-down experiment with its baseline, and a verdict.

    Writes one JSON record per claim (paper value, measured value, baseline, verdict, seed, versions, sizes, time). A
    claim that fails here is a result like any other, and exits with 0.

    Example: harken claim mp-senet --seed 1
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from harken.allocation import keep_freed_memory
    from harken.errors import InputError
    from harken.papers import get_paper, list_papers
    from harken.papers.claims import run_claims

    if bool(slugs) == every:
        raise InputError("name the papers whose claims to run, or give --all (and not both)")
    chosen = [paper for paper in list_papers() if paper.claims] if every else [get_paper(slug) for slug in slugs or []]

    keep_freed_memory()
    columns = (TextColumn("{task.fields[name]}"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    for paper in chosen:
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            bar = bars.add_task("", total=1.0, name=paper.slug, note="")

            def advance(name: str, done: float, note: str, bars=bars, bar=bar, slug=paper.slug) -> None:  # type: ignore[no-untyped-def]
                bars.update(bar, completed=done, name=f"{slug}.{name}", note=note)

            records = run_claims(paper.slug, out, seed=seed, quick=quick, only=only, progress=advance)
        for record in records:
            _print_record(record)


def parity(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Cases, or folders of cases.")],
) -> None:
    """Compare our models with reference tensors, one by one.

    A case is a directory with case.json, io.safetensors and weights.safetensors: somebody's configuration, inputs,
    outputs and parameters. Our model is built from them, run, and the largest absolute error of each output set
    against the case's tolerance. Exits with 1 when one is over, with 2 when a case cannot be run.

    Example: harken parity tests/parity/mp-senet
    """
    from harken.errors import HarkenError
    from harken.papers.parity import check_parity, find_cases

    cases = [case for directory in directories for case in find_cases(directory)]
    over = broken = 0
    for case in cases:
        try:
            report = check_parity(case)
        except HarkenError as problem:
            if len(cases) == 1:
                raise
            typer.echo(f"error: {problem}", err=True)
            broken += 1
            continue
        _print_report(report)
        over += not report.passed
    if len(cases) > 1:
        typer.echo(f"{len(cases)} cases: {len(cases) - over - broken} match, {over} do not, {broken} could not be run")
    if over or broken:
        raise typer.Exit(2 if broken else 1)


def _coloured(text: str, what: str = "") -> Text:
    from rich.text import Text

    return Text(text, style=_STYLES.get(what, ""))


def _print_record(record: dict) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{record['slug']}.{record['claim']}: {record['statement']}"
    console.print(_coloured(title))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("", "measured", "baseline"):
        table.add_column(name, justify="right" if name else "left")
    for name in dict.fromkeys([*record["measured"], *record["baseline"]]):
        cells = (record[side].get(name) for side in ("measured", "baseline"))
        table.add_row(_coloured(name), *("" if value is None else f"{value:.4g}" for value in cells))
    console.print(table)
    console.print(_coloured(f"the paper: {record['paper_value']} ({record['source']})"))
    console.print(_coloured(record["verdict"], record["verdict"]), _coloured(record["summary"]), end="\n\n")


def _print_report(report: ParityReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("tensor", no_wrap=True)
    for name in ("largest error", "relative", "of tolerance"):
        table.add_column(name, justify="right")
    table.add_column("")
    for tensor in report.tensors:
        style = "holds" if tensor.passed else "fails here"
        numbers = (f"{tensor.error:.2e}", f"{tensor.relative:.2e}", f"{tensor.judged / report.tolerance:.1%}")
        table.add_row(
            _coloured(tensor.name),
            *(("", "", "") if tensor.problem else numbers),
            _coloured(tensor.problem or ("ok" if tensor.passed else "over"), style),
        )
    console.print(_coloured(f"{report.directory}: {report.slug}, tolerance {report.tolerance:g}"), highlight=False)
    if report.tensors:
        console.print(table)
    else:
        console.print(_coloured("the replay returned nothing to compare", "fails here"))
    if report.not_compared:
        console.print(_coloured(f"not compared (inputs, or not returned): {', '.join(report.not_compared)}", "planned"))
    console.print()
