"""``harken bench``: what attention costs on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from harken.hardware.attention_bench import BenchReport


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    bench = typer.Typer(no_args_is_help=True, help="Time what matters, on this machine.")
    bench.callback()(_group)
    bench.command("attention")(bench_attention)
    app.add_typer(bench, name="bench")


def _group() -> None:
    """Time what matters, on this machine."""


def bench_attention(
    mechanisms: Annotated[
        str,
        typer.Option(
            help="Which, separated by spaces, perhaps with options (span:span_size=128); 'all' for every one there is."
        ),
    ] = "all",
    lengths: Annotated[str, typer.Option(help="Positions, separated by commas.")] = "256,1k,4k,16k",
    modes: Annotated[str, typer.Option(help="Of forward, train (and backward), decode.")] = "forward,train,decode",
    causal: Annotated[
        bool | None,
        typer.Option("--causal/--bidirectional", help="The order.", show_default="causal where there is such a form"),
    ] = None,
    dim: Annotated[int, typer.Option(min=1, help="Channels of a layer.")] = 256,
    heads: Annotated[int, typer.Option(min=1, help="Its heads.")] = 4,
    batch: Annotated[int, typer.Option(min=1, help="Sequences at once.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements of each; the median counts.")] = 5,
    longest_call: Annotated[
        float, typer.Option(min=0.001, help="Seconds of a call at which a mechanism leaves the race.")
    ] = 5.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of PyTorch.", show_default="as many as it takes by itself")
    ] = None,
    json_target: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write all timings as JSON; - is standard output.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw time per position over length, as a picture.")
    ] = None,
) -> None:
    """Time every attention mechanism beside PyTorch's fused softmax, and say from which length on it pays.

    All of them run in turns in one process, and medians count, so that a busy machine is unfair to none. The first
    number of a cell is the time per position (flat along a row means linear), the second how many times faster than
    fused softmax in the same order. 'written out' is softmax with its matrix, as a textbook has it.

    Examples: harken bench attention --lengths 1k,4k,16k,64k --modes forward

    harken bench attention --mechanisms "linear span:span_size=256" --plot attention.png --json attention.json
    """
    import json

    import torch
    from rich.console import Console

    from harken.allocation import keep_freed_memory
    from harken.attention import list_attention
    from harken.data.audio import check_target
    from harken.errors import InputError
    from harken.figures import require_matplotlib
    from harken.hardware import attention_bench as bench
    from harken.whole_files import write_text

    if json_target not in (None, "-"):
        check_target(str(json_target))  # now, not after the work
    if plot is not None:
        require_matplotlib()
        check_target(str(plot))
    if threads is not None:
        torch.set_num_threads(threads)
    names = mechanisms.split()
    if names == ["all"]:
        order = {} if causal is None else {"causal" if causal else "bidirectional": True}
        names = list_attention(**order)
    elif not names:
        raise InputError("name at least one mechanism, or 'all'")
    keep_freed_memory()
    errors = Console(stderr=True)
    with errors.status("…") as status:
        report = bench.bench_attention(
            names,
            [bench.parse_length(text) for text in lengths.split(",")],
            modes=[mode.strip() for mode in modes.split(",")],  # type: ignore[misc]  # checked there
            causal=causal,
            dim=dim,
            heads=heads,
            batch=batch,
            rounds=rounds,
            longest_call=longest_call,
            on_progress=lambda text: status.update(f"timing {text}"),
        )
    if json_target == "-":
        typer.echo(json.dumps(report.as_json(), indent=1, allow_nan=False))
    elif json_target is not None:
        write_text(Path(json_target), json.dumps(report.as_json(), indent=1, allow_nan=False) + "\n")
    if plot is not None:
        bench.draw_bench(report, plot)
    _print(report, Console(stderr=json_target == "-"))


def _print(report: BenchReport, console: Console) -> None:
    from rich.table import Table

    from harken.hardware.attention_bench import MODES

    machine = report.machine
    console.print(
        f"{machine['threads']} threads, {machine['matmul_gflops']:g} GFLOP/s in a matrix product, "
        f"{machine['memory_gbytes']:g} GB/s in a copy; dim {report.dim}, {report.heads} heads, batch {report.batch}",
        highlight=False,
    )
    for mode in MODES:
        rows = [t for t in report.timings if t.mode == mode]
        if not rows:
            continue
        lengths = sorted({t.length for t in rows})
        table = Table(title=f"{mode}: µs a position (times faster than softmax)", title_justify="left", box=None)
        table.add_column("mechanism")
        table.add_column("order")
        for length in lengths:
            table.add_column(f"{length:,}", justify="right")
        table.add_column("pays from", justify="right")
        found = {(t.mechanism, t.causal, t.length): t for t in rows}
        for name, causal in dict.fromkeys((t.mechanism, t.causal) for t in rows):
            cells = []
            for length in lengths:
                t = found.get((name, causal, length))
                ratio = "" if t is None or t.speedup is None else f" ({t.speedup:.2g})"
                cells.append("-" if t is None else f"{t.seconds_per_position * 1e6:.3g}{ratio}")
            crossover = report.crossover(name, mode, causal)
            pays = "" if name == "softmax" else f"{crossover:,}" if crossover else "-"
            table.add_row(name, "causal" if causal else "both ways", *cells, pays)
        console.print(table)
    for line in report.skipped[:20]:
        console.print(f"left out: {line}", style="dim", highlight=False)
