"""Many files through one verb: each result whole or absent, and a report of what became of every input."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from harken.data.audio import AudioFile, check_target, open_audio, open_writer
from harken.errors import HarkenError, InputError, OutputError
from harken.figures import require_matplotlib
from harken.tasks.batch import PIPE, Job, find_inputs, names_folder, plan_outputs
from harken.tasks.levels import LevelMeter
from harken.tasks.manifest import Manifest
from harken.tasks.pictures import Sketch, draw_before_after
from harken.tasks.recordings import Progress
from harken.tasks.worker_pool import WorkerDied, work_in_processes


@dataclass
class FileResult:
    """What became of one input.

    Attributes:
        input, output, picture: paths; ``"-"`` for a pipe; None for what was not made.
        seconds, rate, channels, encoding: of the input; ``encoding`` is that of the output where they differ.
        elapsed: seconds of work.
        real_time_factor: ``elapsed / seconds``: below 1 is faster than playing.
        notes: what the user should know, one line each.
        error: why there is no output; None for success.
    """

    input: str
    output: str | None = None
    picture: str | None = None
    seconds: float | None = None
    rate: int | None = None
    channels: int | None = None
    encoding: str | None = None
    elapsed: float | None = None
    real_time_factor: float | None = None
    notes: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass
class LevelledResult(FileResult):
    """What became of one input that was made into one waveform.

    Attributes:
        input_level_dbfs, output_level_dbfs: RMS of all channels, each at the rate it was measured at, not below -120.
    """

    input_level_dbfs: float | None = None
    output_level_dbfs: float | None = None


class Surveyed(Protocol):
    """What the verbs that make a waveform measure while they do: sketches for a picture, levels before and after."""

    @property
    def sketches(self) -> tuple[Sketch, Sketch] | None: ...  # noqa: D102

    @property
    def before(self) -> LevelMeter: ...  # noqa: D102

    @property
    def after(self) -> LevelMeter: ...  # noqa: D102


Result = TypeVar("Result", bound=FileResult)
Work = Callable[[AudioFile, Path, Any], None]


@dataclass
class FilesReport(Generic[Result]):
    """What became of every input, in order."""

    task: str
    model: str
    files: list[Result]
    done_before: int = 0  # files that a manifest said were done

    @property
    def done(self) -> list[Result]:
        """The inputs with a result."""
        return [file for file in self.files if file.error is None]

    @property
    def failed(self) -> list[Result]:
        """The inputs without one."""
        return [file for file in self.files if file.error is not None]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Batch:
    """Inputs with a place for the result of each; made by :meth:`plan`, before a model is loaded."""

    jobs: list[tuple[Job, Path]]
    in_folder: bool

    @classmethod
    def plan(
        cls,
        sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        out: str | os.PathLike[str] | None,
        *,
        suffix: str,
        overwrite: bool = False,
        plot: bool = False,
    ) -> Batch:
        """Find the inputs, place the outputs, and look for mistakes that can be found now.

        Args:
            sources: files, folders (searched recursively), patterns such as ``"talks/**/*.wav"``, ``"-"`` for a pipe.
            out: a file for one input, a folder (made if missing) for several, which keeps their tree; beside each input
                as ``<stem>.<suffix>.<extension>`` when None; ``"-"`` for standard output.
            suffix: of results beside their inputs.
            overwrite: an output may replace its input.
            plot: a picture will be drawn beside each output.

        Raises:
            InputError: nothing to do, or the only input cannot be read.
            OutputError: outputs that collide with each other or with inputs.
            MissingExtraError: ``plot`` without matplotlib.
        """
        named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        found = find_inputs(named)
        several = len(named) > 1 or any(job.found for job in found)
        in_folder = out is not None and str(out) != "-" and (several or names_folder(out))
        jobs = plan_outputs(found, out, several=several, suffix=suffix, overwrite=overwrite)
        if plot:
            require_matplotlib()
            if any(target == PIPE for _, target in jobs):
                raise OutputError("a picture needs a file to lie beside: name an output with -o")
        if len(jobs) == 1:  # a mistake in the only file is told before the model is loaded
            job, target = jobs[0]
            if job.source != PIPE and not job.source.is_fifo():  # what a pipe holds can be read once
                with open_audio(job.source):
                    pass
            if target != PIPE and not in_folder:
                check_target(target)
        return cls(jobs, in_folder)

    def run(
        self,
        report: FilesReport[Result],
        new: Callable[[str], Result],
        prepare: Callable[[Progress | None], Work],
        *,
        progress: Progress | None = None,
        finished: Callable[[Result], None] | None = None,
        workers: int = 1,
        manifest: str | os.PathLike[str] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> FilesReport[Result]:
        """Do the work file by file, into ``report``; a file that fails is noted and the rest done.

        Args:
            report: where results are put, in the order of the inputs.
            new: a result for an input's name.
            prepare: loads what is needed and gives the work, which reads an open file, writes its target, and fills the
                result in. With several workers it travels to their processes: a dataclass, not a closure.
            progress: given to ``prepare``.
            finished: called with each result as it comes.
            workers: how many processes; the work stays in this one when there is one.
            manifest: a JSON-lines file that learns what was done; what it says was done already, with the same
                ``settings``, is passed over.

        Raises:
            InputError: ``workers`` below 1, or a manifest that is none.
            HarkenError: the only input failed, or what is needed cannot be loaded.
        """
        if workers < 1:
            raise InputError(f"workers must be at least 1, got {workers}")
        record = Manifest(manifest, report.task, settings or {}) if manifest is not None else None
        jobs = [job for job in self.jobs if record is None or not record.has(job[0].source, job[1])]
        report.done_before = len(self.jobs) - len(jobs)
        if jobs:
            work = prepare(progress)  # also with several workers: its errors are told before they are started
            one_file = _OneFile(new, work, self.in_folder, raises=len(self.jobs) == 1)
            results: Iterable[tuple[int, Result | WorkerDied]] = ((i, one_file(job)) for i, job in enumerate(jobs))
            if workers > 1 and len(jobs) > 1:
                in_process = _InProcess(new, prepare, self.in_folder)
                results = work_in_processes(jobs, in_process, workers=workers, progress=progress)
            done: dict[int, Result] = {}
            for index, result in results:
                if isinstance(result, WorkerDied):
                    reason, result = result.reason, new(str(jobs[index][0].source))
                    result.error = reason
                done[index] = result
                if record:
                    record.add(result)
                if finished:
                    finished(result)
            report.files += [done[index] for index in sorted(done)]
        return report


@dataclass(frozen=True)
class _InProcess(Generic[Result]):
    """What a process of a batch is started with."""

    new: Callable[[str], Result]
    prepare: Callable[[Progress | None], Work]
    in_folder: bool

    def __call__(self, progress: Progress | None) -> _OneFile[Result]:
        return _OneFile(self.new, self.prepare(progress), self.in_folder, raises=False)


@dataclass(frozen=True)
class _OneFile(Generic[Result]):
    """One job of a batch, with its errors in the result."""

    new: Callable[[str], Result]
    work: Work
    in_folder: bool
    raises: bool  # a single input's error is the whole answer

    def __call__(self, planned: tuple[Job, Path]) -> Result:
        job, target = planned
        result = self.new(str(job.source))
        try:
            if self.in_folder:
                _make_folder(target.parent)
            began = time.perf_counter()
            with open_audio("-" if job.source == PIPE else job.source) as audio:
                result.rate, result.channels = audio.rate, audio.channels
                self.work(audio, target, result)
            result.output = str(target)
            result.elapsed = time.perf_counter() - began
            if result.seconds:
                result.real_time_factor = result.elapsed / result.seconds
        except (HarkenError, OSError, RuntimeError, ValueError) as error:
            result.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if self.raises:
                raise
        return result


def deliver(
    blocks: Iterable[np.ndarray], target: Path, audio: AudioFile, result: FileResult, *, rate: int, frames: int
) -> None:
    """Write a stream where it belongs, stored as its input was; ``result`` learns the encoding.

    Formats put lengths in their headers, so what goes to standard output is made whole before it is piped on.
    """
    if target != PIPE:
        with open_writer(target, rate, audio.channels, like=audio.encoding, frames=frames) as writer:
            for block in blocks:
                writer.write(block)
        result.encoding = " ".join(writer.encoding)
        return
    with tempfile.TemporaryDirectory(prefix="harken-") as folder:
        name = Path(folder) / ("result" + _EXTENSIONS.get(audio.encoding.format, ".wav"))
        deliver(blocks, name, audio, result, rate=rate, frames=frames)
        with name.open("rb") as made:
            shutil.copyfileobj(made, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


def deliver_waveform(
    blocks: Iterable[np.ndarray],
    target: Path,
    audio: AudioFile,
    result: LevelledResult,
    measured: Surveyed,
    *,
    rate: int,
    frames: int,
) -> None:
    """:func:`deliver`, then what a user wants to know of it: a picture where sketches were made, levels, clipping."""
    deliver(blocks, target, audio, result, rate=rate, frames=frames)
    if measured.sketches:
        picture = target.with_name(f"{target.name}.png")  # the whole name: never one that was there for itself
        draw_before_after(*measured.sketches, picture, title=target.name)
        result.picture = str(picture)
    result.input_level_dbfs = round(measured.before.dbfs, 2)
    result.output_level_dbfs = round(measured.after.dbfs, 2)
    note_clipping(result, measured.after.peak)


def note_clipping(result: FileResult, peak: float) -> None:
    """Say so where samples beyond full scale were clipped by the output's format."""
    if peak > 1 and result.encoding and not result.encoding.endswith(("FLOAT", "DOUBLE")):
        result.notes.append(f"peaks {peak:.2f} times full scale were clipped")


_EXTENSIONS = {
    "FLAC": ".flac",
    "OGG": ".ogg",
    "MP3": ".mp3",
    "AIFF": ".aiff",
    "AU": ".au",
    "CAF": ".caf",
    "W64": ".w64",
}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror}") from error
