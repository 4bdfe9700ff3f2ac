"""Enhance files: many recordings of any length in constant memory, each result whole or absent, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harken.data.audio import AudioFile
from harken.tasks.enhance import Run
from harken.tasks.file_reports import Batch, FileResult, FilesReport, deliver, note_clipping
from harken.tasks.pictures import draw_before_after
from harken.tasks.recordings import Progress


@dataclass
class EnhancedFile(FileResult):
    """What became of one input.

    Attributes:
        input_level_dbfs, output_level_dbfs: RMS of all channels at the model's rate, not below -120.
        noise_floor_drop_db: estimate of the noise taken away: the 10th percentile of the levels of 20 ms frames, input
            minus output. It needs pauses in the speech to mean noise.
    """

    input_level_dbfs: float | None = None
    output_level_dbfs: float | None = None
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
) -> EnhanceReport:
    """Enhance files, folders and patterns; a broken one does not stop the rest.

    Results keep the rate, channels and, where libsndfile can write it, the format and sample format of their input.

    Args:
        sources, out, overwrite, plot: as for :meth:`harken.tasks.file_reports.Batch.plan`.
        model, weights, device, chunk, overlap, progress: as for :func:`harken.tasks.enhance.enhance`.
        finished: called with each result as it comes.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    batch = Batch.plan(sources, out, suffix="enhanced", overwrite=overwrite, plot=plot)
    run = Run.load(model, weights, device=device, chunk=chunk, overlap=overlap)

    def work(audio: AudioFile, target: Path, result: EnhancedFile) -> None:
        measured = run.survey(audio, sketch=plot)
        result.seconds = measured.frames / audio.rate
        stream = run.stream(audio, measured=measured, progress=progress)
        deliver(stream, target, audio, result, rate=audio.rate, frames=measured.frames)
        if measured.sketches:
            picture = target.with_name(f"{target.name}.png")  # the whole name: never one that was there for itself
            draw_before_after(*measured.sketches, picture, title=target.name)
            result.picture = str(picture)
        result.input_level_dbfs = round(measured.before.dbfs, 2)
        result.output_level_dbfs = round(measured.after.dbfs, 2)
        result.noise_floor_drop_db = round(measured.before.quiet_dbfs - measured.after.quiet_dbfs, 1)
        rate = run.model.sample_rate
        if audio.rate > rate:
            result.notes.append(f"nothing above {rate // 2 / 1000:g} kHz: the model works at {rate / 1000:g} kHz")
        if measured.before.dbfs <= -120:
            result.notes.append("the recording is silent")
        note_clipping(result, measured.after.peak)

    name = model if isinstance(model, str) else type(model).__name__
    return batch.run(FilesReport("enhance", name, []), EnhancedFile, work, finished)
