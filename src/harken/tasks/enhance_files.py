"""Enhance files: many recordings of any length in constant memory, each result whole or absent, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harken.data.audio import AudioFile
from harken.tasks.enhance import Run
from harken.tasks.file_reports import Batch, FilesReport, LevelledResult, deliver_waveform
from harken.tasks.recordings import Progress


@dataclass
class EnhancedFile(LevelledResult):
    """What became of one input.

    Attributes:
        noise_floor_drop_db: estimate of the noise taken away: the 10th percentile of the levels of 20 ms frames, input
            minus output. It needs pauses in the speech to mean noise.
    """

    noise_floor_drop_db: float | None = None


EnhanceReport = FilesReport[EnhancedFile]


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
    finished: Callable[[EnhancedFile], None] | None = None,
    workers: int = 1,
    manifest: str | os.PathLike[str] | None = None,
) -> EnhanceReport:
    """Enhance files, folders and patterns; a broken one does not stop the rest.

    Results keep the rate, channels and, where libsndfile can write it, the format and sample format of their input.

    Args:
        sources, out, overwrite, plot: as for :meth:`harken.tasks.file_reports.Batch.plan`.
        model, weights, device, chunk, overlap, progress: as for :func:`harken.tasks.enhance.enhance`.
        finished, workers, manifest: as for :meth:`harken.tasks.file_reports.Batch.run`; a script that asks for several
            workers keeps its own doing below ``if __name__ == "__main__":``, since they import it.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    batch = Batch.plan(sources, out, suffix="enhanced", overwrite=overwrite, plot=plot)
    prepare = _Prepare(model, weights, device, chunk, overlap, plot)
    name = model if isinstance(model, str) else type(model).__name__
    return batch.run(
        FilesReport("enhance", name, []),
        EnhancedFile,
        prepare,
        progress=progress,
        finished=finished,
        workers=workers,
        manifest=manifest,
        settings={**vars(prepare), "model": name, "device": None, "plot": None},  # what results depend on
    )


@dataclass(frozen=True)
class _Prepare:
    """The settings of a batch, as they travel to its workers."""

    model: str | Any
    weights: str | os.PathLike[str] | None
    device: str
    chunk: float | None
    overlap: float
    plot: bool

    def __call__(self, progress: Progress | None) -> _Enhance:
        run = Run.load(self.model, self.weights, device=self.device, chunk=self.chunk, overlap=self.overlap)
        return _Enhance(run, self.plot, progress)


@dataclass(frozen=True)
class _Enhance:
    """What is done to one file."""

    run: Run
    plot: bool
    progress: Progress | None

    def __call__(self, audio: AudioFile, target: Path, result: EnhancedFile) -> None:
        measured = self.run.survey(audio, sketch=self.plot)
        result.seconds = measured.frames / audio.rate
        stream = self.run.stream(audio, measured=measured, progress=self.progress)
        deliver_waveform(stream, target, audio, result, measured, rate=audio.rate, frames=measured.frames)
        result.noise_floor_drop_db = round(measured.before.quiet_dbfs - measured.after.quiet_dbfs, 1)
        rate = self.run.model.sample_rate
        if audio.rate > rate:
            result.notes.append(f"nothing above {rate // 2 / 1000:g} kHz: the model works at {rate / 1000:g} kHz")
        if measured.before.dbfs <= -120:
            result.notes.append("the recording is silent")
