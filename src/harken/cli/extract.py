"""``harken extract``: of several talkers, the one whom an example names."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import (
    Device,
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
    from harken.tasks.extract_files import ExtractedFile

_LIVE = "Live"


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("extract")(extract)


def extract(
    enroll: Annotated[
        list[str],
        typer.Option(help="An example of the wanted voice, 0.5 to 30 s; repeat it for several.", metavar="CLIP"),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files, folders, patterns such as 'talks/**/*.wav', or - for stdin."),
    ] = None,
    out: Annotated[str | None, out_option("*.extracted.*")] = None,
    weights: Weights = None,
    encoder: Annotated[
        str,
        typer.Option(
            help="What knows voices: speaker-encoder, look-once-enrolment (the paper's) or resemblyzer (its package)."
        ),
    ] = "speaker-encoder",
    encoder_weights: Annotated[
        str | None, typer.Option(help="Of --encoder, as for --weights.", show_default="those that ship")
    ] = None,
    device: Device = "cpu",
    live: Annotated[
        bool, typer.Option("--live", help="Raw PCM from stdin to stdout, 8 ms at a time.", rich_help_panel=_LIVE)
    ] = False,
    rate: Annotated[
        int | None, typer.Option(help="Hz of the raw PCM.", show_default="16000", rich_help_panel=_LIVE)
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(help="Of the raw PCM: 2, left ear first, or 1.", show_default="2", rich_help_panel=_LIVE),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option("--format", help="Of the raw PCM: s16le or f32le.", show_default="s16le", rich_help_panel=_LIVE),
    ] = None,
    overwrite: Overwrite = False,
    workers: Workers = None,
    manifest: Manifest = None,
    plot: Plot = False,
    report: Report = None,
    quiet: Quiet = False,
) -> None:
    """Keep one talker of a recording: the one who speaks in --enroll.

    Two channels are the two ears, left first, and the talker stays where they were heard; one channel is heard by both.
    The example may be noisy if it has two channels and the talker was straight ahead of the listener. Length, rate,
    channels and format stay. The network looks 12 ms ahead and no further: --live puts it into a pipeline.

    Example: harken extract party.wav --enroll anna.wav -o anna_at_the_party.wav --plot

    Example: parec --rate 16000 --channels 2 --raw | harken extract --live --enroll anna.wav | pacat --rate 16000 --raw
    """
    if live:
        _live(
            enroll, inputs or [], out, weights, encoder, encoder_weights, device, rate, channels, format, report, quiet
        )
        return
    from harken.errors import InputError
    from harken.tasks.extract_files import extract_files

    if rate is not None or channels is not None or format is not None:
        raise InputError("--rate, --channels and --format describe raw PCM: add --live, or leave them out")
    if not inputs:
        raise InputError("nothing to do: name a file, a folder or a pattern, or pass --live")
    console = check_report(report, inputs, out)
    with RecordingBars(quiet=quiet) as bars:
        result = extract_files(
            inputs,
            enroll,
            out,
            weights=weights,
            encoder=encoder,
            encoder_weights=encoder_weights,
            device=device,
            overwrite=overwrite,
            plot=plot,
            progress=bars.show,
            workers=workers_for(inputs, workers, device),
            manifest=manifest,
        )
    columns = ("seconds", "took", "level", "ms for 8 ms")
    finish(result, console, columns=columns, row=_row, report=report, quiet=quiet)


def _row(file: ExtractedFile) -> list[str]:
    return [
        f"{file.seconds:.1f}",
        f"{file.elapsed:.1f} s",
        f"{file.input_level_dbfs:.1f} to {file.output_level_dbfs:.1f} dBFS",
        "" if file.ms_per_chunk is None else f"{file.ms_per_chunk:.2f}",
    ]


def _pipe_out() -> IO[bytes]:
    return sys.stdout.buffer


def _live(
    enroll: list[str],
    inputs: list[str],
    out: str | None,
    weights: str | None,
    encoder: str,
    encoder_weights: str | None,
    device: str,
    rate: int | None,
    channels: int | None,
    format: str | None,
    report: str | None,
    quiet: bool,
) -> None:
    from rich.console import Console

    from harken.errors import InputError, OutputError
    from harken.tasks.extract import Run
    from harken.tasks.extract_live import extract_live
    from harken.whole_files import write_text

    if inputs not in ([], ["-"]) or out not in (None, "-"):
        raise InputError("--live reads standard input and writes standard output: name no files")
    if report in ("json", "-"):
        raise OutputError("standard output carries the sound: name a file, --report report.json")
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("--live reads raw PCM from standard input: pipe some in")
    check_report(report, ["-"], None)
    run = Run.load(enroll, weights=weights, encoder=encoder, encoder_weights=encoder_weights, device=device)
    console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
    size, own = run.model.config, run.model.sample_rate
    chunk, ahead = (1000 * samples / own for samples in (size.hop_length, size.look_ahead))
    console.print(
        f"listening: output lags by {chunk + ahead:g} ms ({chunk:g} of a chunk, {ahead:g} ahead) and computing"
    )
    found = extract_live(
        run,
        sys.stdin.buffer,
        _pipe_out(),
        rate=rate or 16000,
        channels=channels or 2,
        format=format or "s16le",  # type: ignore[arg-type]  # checked there
    )
    if report is not None:
        write_text(Path(report), json.dumps(found.as_dict(), indent=2) + "\n")
    if found.chunks:
        console.print(
            f"{found.seconds:.1f} s; a chunk of {found.chunk_ms:g} ms took {found.median_ms:.2f} ms, "
            f"1 in 100 more than {found.p99_ms:.2f}; {found.late} of {found.chunks} were late; "
            f"lag {found.latency_ms:.1f} ms"
        )
    if found.mended:
        console.print(f"note: {found.mended} NaN or infinite samples were taken for silence")
