"""``harken enhance``: noisy recordings in, voices out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import RecordingBars, check_report, finish

if TYPE_CHECKING:
    from harken.tasks.enhance_files import EnhancedFile


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("enhance")(enhance)


def enhance(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Files, folders, patterns such as 'talks/**/*.wav', or - for stdin."),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A file for one input, a folder for several, - for stdout.",
            show_default="beside each input, as *.enhanced.*",
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="Which enhancer; 'harken models' lists them.")] = "mp-senet",
    weights: Annotated[
        str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "cpu",
    chunk: Annotated[float, typer.Option(help="Seconds that the model sees at once; 0 for all.")] = 10.0,
    overlap: Annotated[float, typer.Option(help="Seconds in which one chunk fades into the next.")] = 1.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="An output may replace its input.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a picture before/after beside each output.")] = False,
    report: Annotated[
        str | None,
        typer.Option("--report", "--json", metavar="json|FILE.json", help="Report as JSON, on stdout or in a file."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Take the noise out of recordings of speech.

    Rate, length, channels and format stay as they are; what lies above 8 kHz is not kept. Files of any length are
    processed in constant memory. A broken file does not stop the rest.

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
