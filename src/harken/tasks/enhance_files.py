"""Enhance files: many recordings of any length in constant memory, each result whole or absent, and a report."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harken.data.audio import AudioFile, check_target, open_audio, open_writer
from harken.errors import HarkenError, OutputError
from harken.figures import require_matplotlib
from harken.tasks.batch import PIPE, Job, find_inputs, names_folder, plan_outputs
from harken.tasks.enhance import Measured, Progress, Run
from harken.tasks.pictures import draw_before_after


@dataclass
class FileResult:
    """What became of one input.

    Attributes:
        input, output, picture: paths; ``"-"`` for a pipe; None for what was not made.
        seconds, rate, channels, encoding: of the input; ``encoding`` is that of the output where they differ.
        elapsed: seconds of work.
        real_time_factor: ``elapsed / seconds``: below 1 is faster than playing.
        input_level_dbfs, output_level_dbfs: RMS of all channels at the model's rate, not below -120.
        noise_floor_drop_db: estimate of the noise taken away: the 10th percentile of the levels of 20 ms frames, input
            minus output. It needs pauses in the speech to mean noise.
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
    input_level_dbfs: float | None = None
    output_level_dbfs: float | None = None
    noise_floor_drop_db: float | None = None
    notes: list[str] = field(default_factory=list)
    error: str | None = None


@dataclass
class EnhanceReport:
    """What became of every input, in order."""

    model: str
    files: list[FileResult]

    @property
    def done(self) -> list[FileResult]:
        """The inputs with a result."""
        return [file for file in self.files if file.error is None]

    @property
    def failed(self) -> list[FileResult]:
        """The inputs without one."""
        return [file for file in self.files if file.error is not None]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        return {"task": "enhance", **asdict(self)}


def enhance_files(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    model: str | Any = "mp-senet",
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    chunk: float | None = 10.0,
    overlap: float = 1.0,
    overwrite: bool = False,
    plot: bool = False,
    progress: Progress | None = None,
    finished: Callable[[FileResult], None] | None = None,
) -> EnhanceReport:
    """Enhance files, folders and patterns; a broken one does not stop the rest.

    Results keep the rate, channels and, where libsndfile can write it, the format and sample format of their input.

    Args:
        sources: files, folders (searched recursively), patterns such as ``"talks/**/*.wav"``, ``"-"`` for a pipe.
        out: a file for one input, a folder (made if missing) for several, which keeps their tree; beside each input as
            ``<stem>.enhanced.<extension>`` when None; ``"-"`` for standard output.
        model, weights, device, chunk, overlap, progress: as for :func:`harken.tasks.enhance.enhance`.
        overwrite: an output may replace its input.
        plot: draw a picture before/after beside each output.
        finished: called with each result as it comes.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    jobs = find_inputs(named)
    several = len(named) > 1 or any(job.found for job in jobs)
    in_folder = out is not None and str(out) != "-" and (several or names_folder(out))
    plan = plan_outputs(jobs, out, several=several, suffix="enhanced", overwrite=overwrite)
    if plot:
        require_matplotlib()
        if any(target == PIPE for _, target in plan):
            raise OutputError("a picture needs a file to lie beside: name an output with -o")
    if len(plan) == 1:  # a mistake in the only file is told before the model is loaded
        job, target = plan[0]
        if job.source != PIPE and not job.source.is_fifo():  # what a pipe holds can be read once
            with open_audio(job.source):
                pass
        if target != PIPE and not in_folder:
            check_target(target)
    run = Run.load(model, weights, device=device, chunk=chunk, overlap=overlap)
    report = EnhanceReport(model if isinstance(model, str) else type(model).__name__, [])
    for job, target in plan:
        result = FileResult(str(job.source))
        try:
            if in_folder:
                _make_folder(target.parent)
            _enhance_file(run, job, target, result, plot=plot, progress=progress)
        except (HarkenError, OSError, RuntimeError, ValueError) as error:
            result.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if len(plan) == 1:
                raise
        report.files.append(result)
        if finished:
            finished(result)
    return report


def _enhance_file(
    run: Run, job: Job, target: Path, result: FileResult, *, plot: bool, progress: Progress | None
) -> None:
    began = time.perf_counter()
    with open_audio("-" if job.source == PIPE else job.source) as audio:
        result.rate, result.channels = audio.rate, audio.channels
        measured = run.survey(audio, sketch=plot)
        result.seconds = measured.frames / audio.rate
        if target == PIPE:
            _to_stdout(run, audio, measured, result, progress)
        else:
            _to_file(run, audio, measured, target, result, progress)
    result.output = str(target)
    result.elapsed = time.perf_counter() - began
    result.real_time_factor = result.elapsed / result.seconds
    if measured.sketches:
        picture = target.with_name(f"{target.name}.png")  # the whole name: never a picture that was there for itself
        draw_before_after(*measured.sketches, picture, title=target.name)
        result.picture = str(picture)
    result.input_level_dbfs = round(measured.before.dbfs, 2)
    result.output_level_dbfs = round(measured.after.dbfs, 2)
    result.noise_floor_drop_db = round(measured.before.quiet_dbfs - measured.after.quiet_dbfs, 1)
    limit = run.model.sample_rate // 2
    if audio.rate > run.model.sample_rate:
        result.notes.append(
            f"nothing above {limit / 1000:g} kHz: the model works at {run.model.sample_rate / 1000:g} kHz"
        )
    if measured.before.dbfs <= -120:
        result.notes.append("the recording is silent")
    if measured.after.peak > 1 and result.encoding and not result.encoding.endswith(("FLOAT", "DOUBLE")):
        result.notes.append(f"peaks {measured.after.peak:.2f} times full scale were clipped")


def _to_file(
    run: Run, audio: AudioFile, measured: Measured, target: Path, result: FileResult, progress: Progress | None
) -> None:
    with open_writer(target, audio.rate, audio.channels, like=audio.encoding, frames=measured.frames) as writer:
        for block in run.stream(audio, measured=measured, progress=progress):
            writer.write(block)
    result.encoding = " ".join(writer.encoding)


def _to_stdout(run: Run, audio: AudioFile, measured: Measured, result: FileResult, progress: Progress | None) -> None:
    """Formats put lengths in their headers, so the result is made whole before it is piped on."""
    with tempfile.TemporaryDirectory(prefix="harken-") as folder:
        name = Path(folder) / ("result" + _EXTENSIONS.get(audio.encoding.format, ".wav"))
        _to_file(run, audio, measured, name, result, progress)
        with name.open("rb") as made:
            shutil.copyfileobj(made, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


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
