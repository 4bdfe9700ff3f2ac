"""``harken separate``: mixtures in, folders of stems out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import (
    Device,
    Inputs,
    Manifest,
    Plot,
    Quiet,
    RecordingBars,
    Report,
    Weights,
    Workers,
    check_report,
    finish,
    workers_for,
)

if TYPE_CHECKING:
    from harken.tasks.separate_files import SeparatedFile


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("separate")(separate)


def separate(
    inputs: Inputs,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A folder; each input gets a folder of its own in it.",
            show_default="beside each input, as *.stems",
        ),
    ] = None,
    stems: Annotated[
        str | None,
        typer.Option(
            help="Which, such as vocals or drums,bass or speech; chooses among the weights that ship.",
            show_default="all",
        ),
    ] = None,
    rest: Annotated[bool, typer.Option("--rest", help="Also write the recording without these stems.")] = False,
    model: Annotated[
        str | None, typer.Option(help="demucs or conv-tasnet.", show_default="what the weights are of")
    ] = None,
    weights: Weights = None,
    shifts: Annotated[
        int, typer.Option(help="Average over so many random shifts: a little better, so many times slower.")
    ] = 0,
    segment: Annotated[
        float | None, typer.Option(help="Seconds at once: memory grows with it.", show_default="the model's own")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a segment that the next one repeats.")] = 0.25,
    format: Annotated[
        str | None, typer.Option(help="Of the stems: wav, flac...", show_default="that of the input")
    ] = None,
    device: Device = "cpu",
    workers: Workers = None,
    manifest: Manifest = None,
    plot: Plot = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Take recordings apart into stems: drums, bass and the rest; or speech and noise.

    Rate, length, channels and format stay. Files of any length are processed in constant memory. The stems of a file
    appear together or not at all; a broken file does not stop the others, and with --manifest a batch that was stopped
    goes on.

    Example: harken separate song.flac -o stems --plot

    Example: harken separate interview.wav --stems speech --rest
    """
    from harken.tasks.separate_files import separate_files

    console = check_report(report, inputs, out)
    with RecordingBars(quiet=quiet) as bars:
        result = separate_files(
            inputs,
            out,
            stems=None if stems is None else [name.strip() for name in stems.split(",") if name.strip()],
            rest=rest,
            model=model,
            weights=weights,
            shifts=shifts,
            segment=segment,
            overlap=overlap,
            format=format,
            device=device,
            plot=plot,
            progress=bars.show,
            workers=workers_for(inputs, workers, device),
            manifest=manifest,
        )
    finish(result, console, columns=("seconds", "took", "stems (dB)"), row=_row, report=report, quiet=quiet)


def _row(file: SeparatedFile) -> list[str]:
    mixture = file.input_level_dbfs or 0.0
    levels = ", ".join(f"{name} {level - mixture:+.1f}" for name, level in file.stem_levels_dbfs.items())
    return [f"{file.seconds:.1f}", f"{file.elapsed:.1f} s", levels]
