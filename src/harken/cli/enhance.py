"""``harken enhance``: noisy recordings in, voices out."""

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
    from harken.tasks.enhance_files import EnhancedFile


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("enhance")(enhance)


def enhance(
    inputs: Inputs,
    out: Annotated[str | None, out_option("*.enhanced.*")] = None,
    model: Annotated[str, typer.Option(help="Which enhancer; 'harken models' lists them.")] = "mp-senet",
    weights: Weights = None,
    device: Device = "cpu",
    chunk: Annotated[float, typer.Option(help="Seconds that the model sees at once; 0 for all.")] = 10.0,
    overlap: Annotated[float, typer.Option(help="Seconds in which one chunk fades into the next.")] = 1.0,
    overwrite: Overwrite = False,
    workers: Workers = None,
    manifest: Manifest = None,
    plot: Plot = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Take the noise out of recordings of speech.

    Rate, length, channels and format stay as they are; what lies above 8 kHz is not kept. Files of any length are
    processed in constant memory. A broken file does not stop the rest,
    and with --manifest a batch that was stopped goes on where it was.

    Example: harken enhance interview.wav recordings/ -o cleaned --plot
    """
    from harken.tasks.enhance_files import enhance_files

    console = check_report(report, inputs, out)
    with RecordingBars(quiet=quiet) as bars:
        result = enhance_files(
            inputs,
            out,
            model=model,
            weights=weights,
            device=device,
            chunk=chunk or None,
            overlap=overlap,
            overwrite=overwrite,
            plot=plot,
            progress=bars.show,
            workers=workers_for(inputs, workers, device),
            manifest=manifest,
        )
    columns = ("seconds", "took", "level dBFS", "noise floor dB")
    finish(result, console, columns=columns, row=_row, report=report, quiet=quiet)


def _row(file: EnhancedFile) -> list[str]:
    return [
        f"{file.seconds:.1f}",
        f"{file.elapsed:.1f} s",
        f"{file.input_level_dbfs:.1f} to {file.output_level_dbfs:.1f}",
        f"{-(file.noise_floor_drop_db or 0):+.1f}",
    ]
