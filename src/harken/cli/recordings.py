"""What the verbs that take recordings share: bars, the summary, the report as JSON, errors and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.errors import OutputError
from harken.whole_files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from harken.tasks.file_reports import FilesReport

Row = Callable[[Any], Sequence[str]]

# options that mean the same in every verb
Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT", help="Files, folders, patterns such as 'talks/**/*.wav', or - for stdin."),
]
Weights = Annotated[
    str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps or auto.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="An output may replace its input.")]
Plot = Annotated[bool, typer.Option("--plot", help="Draw a picture before/after beside each output.")]
Report = Annotated[
    str | None,
    typer.Option("--report", "--json", metavar="json|FILE.json", help="Report as JSON, on stdout or a file."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="Processes that share the files.", show_default="one; for 8 files or more, one a processor"
    ),
]
Manifest = Annotated[
    str | None,
    typer.Option(metavar="FILE.jsonl", help="Note here what is done, and pass over what was: a stopped batch goes on."),
]
_MANY = 8  # files from which it pays to start processes


def out_option(beside: str) -> Any:
    """``--out`` of a verb whose results lie beside their inputs under names like ``beside``."""
    text = "A file for one input, a folder for several, - for stdout."
    return typer.Option("--out", "-o", help=text, show_default=f"beside each input, as {beside}")


def workers_for(inputs: Sequence[str], workers: int | None, device: str) -> int:
    """How many processes, where nobody said: one a processor for many files, and one for few or on a GPU."""
    if workers is not None:
        return workers
    from harken.tasks.batch import find_inputs
    from harken.tasks.worker_pool import processors

    many = device == "cpu" and len(find_inputs(inputs)) >= _MANY
    return min(processors(), 8) if many else 1


def check_report(report: str | None, inputs: Sequence[str], out: str | None) -> Console:
    """Refuse a report that has no place to go, and give the console on which people may be told things.

    Raises:
        OutputError: standard output is taken, or the report's file cannot be written.
    """
    from rich.console import Console

    from harken.data.audio import check_target

    audio_on_stdout = out == "-" or (out is None and list(inputs) == ["-"])
    on_stdout = report in ("json", "-")
    if on_stdout and audio_on_stdout:
        raise OutputError("standard output carries the audio: name a file, --report report.json")
    if report is not None and not on_stdout:
        if not report.endswith(".json"):
            raise OutputError(f"--report takes 'json' or a file that ends in .json, got '{report}'")
        check_target(report)  # now, not after the work
    return Console(stderr=audio_on_stdout or on_stdout)


class RecordingBars:
    """A progress bar for each recording that is worked on, on stderr; none without a terminal."""

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
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> RecordingBars:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def show(self, name: str, done: float, total: float) -> None:
        """Move the bar of a recording; one that is full goes."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(Path(name).name, total=total)
        self._progress.update(self._tasks[name], completed=done)
        if done >= total:
            self._progress.remove_task(self._tasks.pop(name))


def finish(
    result: FilesReport[Any],
    console: Console,
    *,
    columns: Sequence[str],
    row: Row,
    report: str | None = None,
    quiet: bool = False,
) -> None:
    """Tell what became of the files, on screen and as JSON.

    Args:
        result: of the files.
        console: where people are told.
        columns, row: what the summary says of a file beside its name, and how.
        report: ``"json"`` or ``"-"`` for standard output, a file, or None.
        quiet: errors only.

    Raises:
        typer.Exit: 1 where some inputs failed, 2 where all did.
    """
    if not quiet:
        _print_summary(result, console, columns, row)
    if report is not None:
        text = json.dumps(result.as_dict(), indent=2, ensure_ascii=False) + "\n"
        if report in ("json", "-"):
            sys.stdout.write(text)
        else:
            write_text(Path(report), text)
    for file in result.failed:
        where = "" if file.input in str(file.error) else f"'{file.input}': "
        print(f"error: {where}{file.error}", file=sys.stderr)
    if result.failed:
        print(f"{len(result.failed)} of {len(result.files)} inputs failed", file=sys.stderr)
        raise typer.Exit(1 if result.done else 2)


def _print_summary(result: FilesReport[Any], console: Console, columns: Sequence[str], row: Row) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("file", overflow="fold")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for file in result.files:
        name = escape("stdin" if file.input == "-" else Path(file.input).name)
        if file.error is not None:
            table.add_row(name, "[red]failed[/red]", *[""] * (len(columns) - 1))
        else:
            table.add_row(name, *row(file))
    console.print(table)
    if result.done_before:
        console.print(f"done before, by the manifest: {result.done_before}", highlight=False)
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
