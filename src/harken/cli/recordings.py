"""What the verbs that take recordings share: bars, the summary, the report as JSON, errors and the exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from harken.errors import OutputError
from harken.whole_files import write_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

    from harken.tasks.file_reports import FilesReport

Row = Callable[[Any], Sequence[str]]


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

    def __enter__(self) -> RecordingBars:
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
