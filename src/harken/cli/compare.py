"""``harken compare``: which one, on your task, at your length, on your machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harken.tasks.compare_attention import CompareReport

_MODEL, _OUT = "Model and budget", "What comes out"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    compare = typer.Typer(no_args_is_help=True, help="Compare what can be swapped, on real data.")
    compare.callback()(_group)
    compare.command("attention")(attention)
    app.add_typer(compare, name="compare")


def _group() -> None:
    """Compare what can be swapped, on real data."""


def attention(
    task: Annotated[
        str, typer.Option(help="copy, lm, code, image, series, document, or a text file of yours (then lm on it).")
    ] = "lm",
    lengths: Annotated[str, typer.Option(help="Positions of a sequence, separated by commas.")] = "256",
    mechanisms: Annotated[
        str,
        typer.Option(help="Which, separated by spaces, perhaps with options (span:span_size=64); 'all' that can."),
    ] = "all",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each, for the spread.", rich_help_panel=_MODEL)] = 2,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.", rich_help_panel=_MODEL)] = 200,
    tokens: Annotated[int, typer.Option(min=1, help="Positions in a step.", rich_help_panel=_MODEL)] = 4096,
    dim: Annotated[int, typer.Option(min=1, help="Channels.", rich_help_panel=_MODEL)] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Blocks.", rich_help_panel=_MODEL)] = 2,
    heads: Annotated[int, typer.Option(min=1, help="Attention heads in a block.", rich_help_panel=_MODEL)] = 4,
    lr: Annotated[float, typer.Option(help="Highest learning rate.", rich_help_panel=_MODEL)] = 2e-3,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Of PyTorch.", show_default="as many as it takes", rich_help_panel=_MODEL),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder of the results; the same command goes on there.", rich_help_panel=_OUT
        ),
    ] = Path("runs/compare"),
    json_target: Annotated[
        str | None,
        typer.Option("--json", metavar="FILE", help="Write the table as JSON; - is stdout.", rich_help_panel=_OUT),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw quality over training speed.", rich_help_panel=_OUT),
    ] = None,
) -> None:
    """Train every attention mechanism in the same small model on the same data, and print one table.

    \b
    copy      random symbols to be repeated             causal
    lm        Python's own documentation, byte by byte  causal
    image     handwritten digits, pixel by pixel        both ways
    series    sound, sample by sample                   both ways
    document  source code, byte by byte                 both ways

    All get the same steps, data, seeds and model; only the attention differs. Accuracy is better when higher, bits per
    byte when lower. Each training is a process of its own. Ctrl-C loses the one that is running; the same command goes
    on with the rest.

    Examples: harken compare attention --task lm --lengths 256,1k --plot lm.png

    harken compare attention --task mybook.txt --mechanisms "softmax lightning span:span_size=128" --steps 1000
    """
    import json

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from harken.data.audio import check_target
    from harken.figures import require_matplotlib
    from harken.hardware.attention_bench import parse_length
    from harken.tasks.compare_attention import CompareConfig, compare_attention, draw_comparison
    from harken.whole_files import write_text

    if json_target not in (None, "-"):
        check_target(str(json_target))  # now, not after the work
    if plot is not None:
        require_matplotlib()
        check_target(str(plot))
    config = CompareConfig(steps, tokens, dim, layers, heads, lr, seeds, threads)
    errors = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bars:
        bar = bars.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bars.update(bar, description=what, completed=done, total=total)

        report = compare_attention(
            task,
            [parse_length(text) for text in lengths.split(",")],
            None if mechanisms == "all" else mechanisms.split(),
            config=config,
            folder=out,
            on_progress=advance,
        )
    text = json.dumps(report.as_json(), indent=1, allow_nan=False)
    if json_target == "-":
        typer.echo(text)
    elif json_target is not None:
        write_text(Path(json_target), text + "\n")
    if plot is not None:
        draw_comparison(report, plot)
    _print(report, Console(stderr=json_target == "-"))
    if report.failed:
        raise typer.Exit(1 if report.rows else 2)


def _print(report: CompareReport, console: Console) -> None:
    from rich.table import Table

    c = report.config
    console.print(
        f"{report.task}: {c.steps} steps of {c.tokens:,} positions, {c.seeds} seeds; dim {c.dim}, {c.layers} layers, "
        f"{c.heads} heads; * = no other is both better and quicker to train",
        highlight=False,
    )
    arrow = "higher is better" if report.higher_is_better else "lower is better"
    for length in sorted({row.length for row in report.rows}):
        table = Table(title=f"{length:,} positions", title_justify="left", box=None)
        table.add_column("mechanism")
        table.add_column(f"{report.quality.replace('_', ' ')}\n{arrow}", justify="right")
        for title in ("train\ntokens/s", "decode\ntokens/s", "peak\nMB", "parameters", "attention\nFLOPs/token"):
            table.add_column(title, justify="right")
        best = report.pareto(length)
        rows = [row for row in report.rows if row.length == length]
        for row in sorted(rows, key=lambda r: -r.quality if report.higher_is_better else r.quality):
            table.add_row(
                f"{row.mechanism}{' *' if row in best else ''}",
                f"{row.quality:.3f} ± {row.spread:.3f}" if row.seeds > 1 else f"{row.quality:.3f}",
                f"{row.train_speed:,.0f}",
                "-" if row.decode_speed is None else f"{row.decode_speed:,.0f}",
                f"{row.peak_mb:,.0f}",
                f"{row.parameters:,}",
                f"{row.flops:,.0f}",
            )
        console.print(table)
    for line in report.left_out:
        console.print(f"left out: {line}", style="dim", highlight=False)
    for line in report.failed:
        console.print(f"failed: {line}", style="red", highlight=False)
