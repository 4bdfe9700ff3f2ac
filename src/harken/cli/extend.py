"""``harken extend``: recordings with a narrow band in, wide ones out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import RecordingBars, check_report, finish

if TYPE_CHECKING:
    from harken.tasks.extend_files import ExtendedFile


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("extend")(extend)


def extend(
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
            show_default="beside each input, as *.extended.*",
        ),
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", help="Hz of the result: 16000 or 48000.", show_default="what the weights make")
    ] = None,
    model: Annotated[str, typer.Option(help="ap-bwe; or copy-up or sinc, which need no weights.")] = "ap-bwe",
    weights: Annotated[
        str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
    ] = None,
    source_rate: Annotated[
        int | None,
        typer.Option("--from", help="Hz that the authors' checkpoint was trained for: it does not say itself."),
    ] = None,
    keep_band: Annotated[
        bool,
        typer.Option("--keep-band/--whole-band", help="Keep what was recorded and add above it, or take all made."),
    ] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")] = "cpu",
    chunk: Annotated[float, typer.Option(help="Seconds at once: changes memory, not the result.")] = 10.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="An output may replace its input.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a picture before/after beside each output.")] = False,
    report: Annotated[
        str | None,
        typer.Option("--report", "--json", metavar="json|FILE.json", help="Report as JSON, on stdout or in a file."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Give recordings of speech the upper band that they lack.

    Length, channels and format stay; the rate becomes --to. Where the recording truly ends is measured, whatever its
    rate says, and printed. Files of any length are processed in constant memory. A broken file does not stop the rest.

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
        )
    finish(result, console, columns=("seconds", "took", "ended at", "rate"), row=_row, report=report, quiet=quiet)


def _row(file: ExtendedFile) -> list[str]:
    return [
        f"{file.seconds:.1f}",
        f"{file.elapsed:.1f} s",
        f"{(file.bandwidth_hz or 0) / 1000:.1f} kHz",
        f"{(file.rate or 0) / 1000:g} to {(file.output_rate or 0) / 1000:g} kHz",
    ]
