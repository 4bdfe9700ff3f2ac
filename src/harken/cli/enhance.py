"""``harken enhance``: noisy recordings in, voices out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.whole_files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from harken.tasks.enhance_files import EnhanceReport


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
        str | None, typer.Option(metavar="json|FILE.json", help="Report as JSON, on stdout or in a file.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Take the noise out of recordings of speech.

    Rate, length, channels and format stay as they are; what lies above 8 kHz is not kept. Files of any length are
    processed in constant memory. A broken file does not stop the rest.

    Example: harken enhance interview.wav recordings/ -o cleaned --plot
    """
    from rich.console import Console

    from harken.data.audio import check_target
    from harken.errors import OutputError
    from harken.tasks.enhance_files import enhance_files

    audio_on_stdout = out == "-" or (out is None and inputs == ["-"])
    if report == "json" and audio_on_stdout:
        raise OutputError("standard output carries the audio: name a file, --report report.json")
    if report not in (None, "json") and not str(report).endswith(".json"):
        raise OutputError(f"--report takes 'json' or a file that ends in .json, got '{report}'")
    if report not in (None, "json"):
        check_target(str(report))  # now, not after the work
    console = Console(stderr=audio_on_stdout or report == "json")
    with _Bars(quiet=quiet) as bars:
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
    if not quiet:
        _print_summary(result, console)
    if report == "json":
        sys.stdout.write(_as_json(result))
    elif report is not None:
        write_text(Path(report), _as_json(result))
    for file in result.failed:
        where = "" if file.input in str(file.error) else f"'{file.input}': "
        print(f"error: {where}{file.error}", file=sys.stderr)
    if result.failed:
        print(f"{len(result.failed)} of {len(result.files)} inputs failed", file=sys.stderr)
        raise typer.Exit(1 if result.done else 2)


class _Bars:
    """A progress bar per recording on stderr; none without a terminal."""

    def __init__(self, *, quiet: bool):
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f} of {task.total:.0f} s"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _Bars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, name: str, done: float, total: float) -> None:
        """Move the bar of a recording."""
        if done == 0 or self._task is None:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(Path(name).name, total=total)
        self._progress.update(self._task, completed=done)


def _print_summary(result: EnhanceReport, console: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in ("seconds", "took", "level dBFS", "noise floor dB"):
        table.add_column(name, justify="right", no_wrap=True)
    for file in result.files:
        name = escape("stdin" if file.input == "-" else Path(file.input).name)
        if file.error is not None:
            table.add_row(name, "[red]failed[/red]", "", "", "")
            continue
        table.add_row(
            name,
            f"{file.seconds:.1f}",
            f"{file.elapsed:.1f} s",
            f"{file.input_level_dbfs:.1f} to {file.output_level_dbfs:.1f}",
            f"{-(file.noise_floor_drop_db or 0):+.1f}",
        )
    console.print(table)
    for output in (file.output for file in result.done if file.output != "-"):
        console.print(f"wrote: {escape(output or '')}", highlight=False, soft_wrap=True)
    for picture in (file.picture for file in result.done if file.picture):
        console.print(f"picture: {escape(picture)}", highlight=False, soft_wrap=True)
    notes: dict[str, list[str]] = {}
    for file in result.done:
        for note in file.notes:
            notes.setdefault(note, []).append(Path(file.input).name)
    for note, names in notes.items():
        where = names[0] if len(names) == 1 else f"{len(names)} files"
        console.print(f"note: {escape(where)}: {note}", highlight=False, soft_wrap=True)


def _as_json(result: EnhanceReport) -> str:
    return json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n"
