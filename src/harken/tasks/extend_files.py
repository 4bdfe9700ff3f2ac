"""Extend files: many recordings of any length in constant memory, each result whole or absent, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harken.data.audio import AudioFile
from harken.tasks.extend import Run
from harken.tasks.file_reports import Batch, FilesReport, LevelledResult, deliver_waveform
from harken.tasks.recordings import Progress


@dataclass
class ExtendedFile(LevelledResult):
    """What became of one input.

    Attributes:
        bandwidth_hz: where the input's spectrum ends, whatever its rate says; 0 for silence.
        output_rate: frames per second of the output.
    """

    bandwidth_hz: float | None = None
    output_rate: int | None = None


ExtendReport = FilesReport[ExtendedFile]


def extend_files(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    to: int | None = None,
    source_rate: int | None = None,
    model: str | Any = "ap-bwe",
    weights: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    chunk: float = 10.0,
    keep_band: bool = True,
    overwrite: bool = False,
    plot: bool = False,
    progress: Progress | None = None,
    finished: Callable[[ExtendedFile], None] | None = None,
    workers: int = 1,
    manifest: str | os.PathLike[str] | None = None,
) -> ExtendReport:
    """Extend files, folders and patterns; a broken one does not stop the rest.

    Results keep the channels and, where libsndfile can write it, the format and sample format of their input.

    Args:
        sources, out, overwrite, plot: as for :meth:`harken.tasks.file_reports.Batch.plan`.
        source_rate: what a bare checkpoint of the authors was trained for, which it does not say.
        to, model, weights, device, chunk, keep_band, progress: as for :func:`harken.tasks.extend.extend`.
        finished, workers, manifest: as for :meth:`harken.tasks.file_reports.Batch.run`; a script that asks for several
            workers keeps its own doing below ``if __name__ == "__main__":``, since they import it.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    batch = Batch.plan(sources, out, suffix="extended", overwrite=overwrite, plot=plot)
    prepare = _Prepare(model, weights, to, source_rate, device, chunk, keep_band, plot)
    name = model if isinstance(model, str) else type(model).__name__
    return batch.run(
        FilesReport("extend", name, []),
        ExtendedFile,
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
    to: int | None
    source_rate: int | None
    device: str
    chunk: float
    keep_band: bool
    plot: bool

    def __call__(self, progress: Progress | None) -> _Extend:
        run = Run.load(
            self.model,
            self.weights,
            to=self.to,
            source_rate=self.source_rate,
            device=self.device,
            chunk=self.chunk,
            keep_band=self.keep_band,
        )
        return _Extend(run, self.plot, progress)


@dataclass(frozen=True)
class _Extend:
    """What is done to one file."""

    run: Run
    plot: bool
    progress: Progress | None

    def __call__(self, audio: AudioFile, target: Path, result: ExtendedFile) -> None:
        run = self.run
        measured = run.survey(audio, sketch=self.plot)
        result.seconds, result.output_rate = measured.frames / audio.rate, run.to
        result.bandwidth_hz = round(measured.bandwidth)
        frames = run.frames_of(measured.frames, audio.rate)
        stream = run.stream(audio, measured=measured, progress=self.progress)
        deliver_waveform(stream, target, audio, result, measured, rate=run.to, frames=frames)
        result.notes += measured.notes
