"""``harken extend``: recordings with a narrow band in, wide ones out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import (
    Device,
    Inputs,
    Manifest,
    Overwrite,
    Plot,
    Quiet,
    RecordingBars,
    Report,
    Weights,
    Workers,
    check_report,
    finish,
    out_option,
    workers_for,
)

if TYPE_CHECKING:
    from harken.tasks.extend_files import ExtendedFile


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("extend")(extend)


def extend(
    inputs: Inputs,
    out: Annotated[str | None, out_option("*.extended.*")] = None,
    to: Annotated[
        int | None, typer.Option("--to", help="Hz of the result: 16000 or 48000.", show_default="what the weights make")
    ] = None,
    model: Annotated[str, typer.Option(help="ap-bwe; or copy-up or sinc, which need no weights.")] = "ap-bwe",
    weights: Weights = None,
    source_rate: Annotated[
        int | None,
        typer.Option("--from", help="Hz that the authors' checkpoint was trained for: it does not say itself."),
    ] = None,
    keep_band: Annotated[
        bool,
        typer.Option("--keep-band/--whole-band", help="Keep what was recorded and add above it, or take all made."),
    ] = True,
    device: Device = "cpu",
    chunk: Annotated[float, typer.Option(help="Seconds at once: changes memory, not the result.")] = 10.0,
    overwrite: Overwrite = False,
    workers: Workers = None,
    manifest: Manifest = None,
    plot: Plot = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Give recordings of speech the upper band that they lack.

    Length, channels and format stay; the rate becomes --to. Where the recording truly ends is measured, whatever its
    rate says, and printed. Files of any length are processed in constant memory. A broken file does not stop the rest,
    and with --manifest a batch that was stopped goes on where it was.

    Example: harken extend telephone.wav archive/ -o wide --to 16000 --plot
    """
    from harken.tasks.extend_files import extend_files

    console = check_report(report, inputs, out)
    with RecordingBars(quiet=quiet) as bars:
        result = extend_files(
            inputs,
            out,
            to=to,
            source_rate=source_rate,
            model=model,
            weights=weights,
            device=device,
            chunk=chunk,
            keep_band=keep_band,
            overwrite=overwrite,
            plot=plot,
            progress=bars.show,
            workers=workers_for(inputs, workers, device),
            manifest=manifest,
        )
    finish(result, console, columns=("seconds", "took", "ended at", "rate"), row=_row, report=report, quiet=quiet)


def _row(file: ExtendedFile) -> list[str]:
    return [
        f"{file.seconds:.1f}",
        f"{file.elapsed:.1f} s",
        f"{(file.bandwidth_hz or 0) / 1000:.1f} kHz",
        f"{(file.rate or 0) / 1000:g} to {(file.output_rate or 0) / 1000:g} kHz",
    ]
