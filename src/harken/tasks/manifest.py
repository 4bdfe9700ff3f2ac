"""What a batch has done, a line of JSON a file, so that a batch that was stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.errors import InputError, OutputError

if TYPE_CHECKING:
    from harken.tasks.file_reports import FileResult

_LONGEST_LINE = 1 << 20
_BEGINS = b'{"input": '  # every record


class Manifest:
    """The record of a batch: read when it is opened, one line longer with every file that is finished.

    A file counts as done when its line says so for the same task and settings, the file has not changed since (size and
    time of change), and its output is there with the size it had. Lines of files that failed are kept for people to
    read; the files are tried again.

    Args:
        path: a file that ends in ``.jsonl``; made when missing.
        task: the verb.
        settings: all that results depend on.

    Raises:
        InputError: the file is no manifest.
        OutputError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], task: str, settings: Mapping[str, Any]):
        self.path, self.task = Path(path), task
        self.settings = json.loads(json.dumps(settings, default=str))  # as they will be read again
        if self.path.suffix != ".jsonl":
            raise InputError(f"a manifest is a file that ends in .jsonl, got '{path}'")
        self._done: dict[str, dict[str, Any]] = {}
        try:
            self._read()
            with self.path.open("a"):
                pass
        except OSError as error:
            raise OutputError(f"cannot write the manifest '{path}': {error.strerror or error}") from error

    def _read(self) -> None:
        if not self.path.exists():
            return
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
                if not line.endswith(b"\n") and line.startswith(_BEGINS[: len(line)]):
                    break  # what a kill cut off
                try:
                    record = json.loads(line)
                    source, task = record["input"], record["task"]
                except (ValueError, TypeError, KeyError):
                    raise InputError(
                        f"line {number} of '{self.path}' is no record of a batch: name another file"
                    ) from None
                if task == self.task and record.get("settings") == self.settings:
                    self._done[str(source)] = record
                whole = file.tell()
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    def has(self, source: Path, target: Path) -> bool:
        """Whether this file was done, and is as it was."""
        record = self._done.get(os.path.realpath(source))
        if record is None or record.get("error") is not None or record.get("output") != str(target):
            return False
        sizes = (record.get("input_bytes"), record.get("input_modified_ns"), record.get("output_bytes"))
        return sizes == (*_stamp(source), _stamp(target)[0])

    def add(self, result: FileResult) -> None:
        """Write down what became of a file, on the disk before this returns.

        Raises:
            OutputError: the disk is full, or the manifest's folder is gone.
        """
        if result.input == "-":
            return
        size, modified = _stamp(Path(result.input))
        record = {
            **asdict(result),
            "input": os.path.realpath(result.input),
            "task": self.task,
            "settings": self.settings,
            "input_bytes": size,
            "input_modified_ns": modified,
            "output_bytes": _stamp(Path(result.output))[0] if result.output else None,
        }
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputError(f"cannot write the manifest '{self.path}': {error.strerror or error}") from error


def _stamp(path: Path) -> tuple[int | None, int | None]:
    """Size and time of change; of a folder, the sizes of its files together."""
    try:
        status = path.stat()
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()), status.st_mtime_ns
    except OSError:
        return None, None
    return status.st_size, status.st_mtime_ns
