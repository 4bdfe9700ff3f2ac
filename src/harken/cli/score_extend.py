"""``harken score extend``: extended speech against the wideband original."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score_extend(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The wideband recording, or a folder of them.")],
    estimate: Annotated[Path, typer.Argument(metavar="EST", help="What a system made, or a folder.")],
    above: Annotated[float, typer.Option(help="Hz where the missing band begins: half of the rate that came in.")],
    metrics: Annotated[str | None, typer.Option(help="Which to compute, separated by commas; all by default.")] = None,
    json_target: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON; - is standard output.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes for a folder; as many as pay by default.")
    ] = None,
) -> None:
    """Score extended speech against the wideband original.

    Two files, or two folders paired by name (then by name without suffix). Lower is better, except for snr.

    \b
    lsd       0 and up     distance between log spectra, in decades
    lsd_high  0 and up     the same above --above: the band made up
    lsd_low   0 and up     the same below: what was done to what was there
    snr       dB           signal to noise; a wrong phase counts
    apd_ip    0 to 3.14    distance between phases; 1.81 is chance
    apd_gd    0 to 3.14    of their differences along frequency
    apd_iaf   0 to 3.14    of their differences along time

    Exits with 1 when a pair of a folder could not be scored, with 2 when nothing could.

    Example: harken score extend wide/ extended/ --above 4000 --json scores.json
    """
    import json

    from rich.console import Console

    from harken.cli.score import print_report
    from harken.data.audio import check_target
    from harken.tasks.score import score

    if json_target not in (None, "-"):
        check_target(str(json_target))  # now, not after the work
    names = None if metrics is None else [name.strip() for name in metrics.split(",") if name.strip()]
    report = score(reference, estimate, metrics=names, above=above, workers=workers)
    if json_target == "-":
        typer.echo(json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
    elif json_target is not None:
        report.save(json_target)
    print_report(report, Console(stderr=json_target == "-"))
    if report.exit_code:
        raise typer.Exit(report.exit_code)
