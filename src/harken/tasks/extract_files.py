"""Extract from files: many recordings of any length in constant memory, each result whole or absent, and a report."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harken.data.audio import AudioFile
from harken.tasks.extract import Run
from harken.tasks.file_reports import Batch, FilesReport, LevelledResult, deliver_waveform
from harken.tasks.recordings import Progress

Source = str | os.PathLike[str]


@dataclass
class ExtractedFile(LevelledResult):
    """What became of one input.

    Attributes:
        ms_per_chunk: milliseconds of work for each chunk (8 ms of sound), mean.
        latency_ms: by how much a live stream would lag behind, computing not counted.
    """

    ms_per_chunk: float | None = None
    latency_ms: float | None = None


ExtractReport = FilesReport[ExtractedFile]


def extract_files(
    sources: Source | Sequence[Source],
    enroll: Source | Sequence[Source],
    out: Source | None = None,
    *,
    weights: Source | None = None,
    encoder: str | Any = "speaker-encoder",
    encoder_weights: Source | None = None,
    model: str | Any = "look-once-to-hear",
    device: str = "cpu",
    overwrite: bool = False,
    plot: bool = False,
    progress: Progress | None = None,
    finished: Callable[[ExtractedFile], None] | None = None,
    workers: int = 1,
    manifest: Source | None = None,
) -> ExtractReport:
    """Keep one talker of files, folders and patterns; a broken one does not stop the rest.

    Results keep the rate, the channels and, where libsndfile can write it, the format and sample format of their input.

    Args:
        sources, out, overwrite, plot: as for :meth:`harken.tasks.file_reports.Batch.plan`.
        enroll, weights, encoder, encoder_weights, model, device, progress: as for :func:`harken.tasks.extract.extract`.
        finished, workers, manifest: as for :meth:`harken.tasks.file_reports.Batch.run`; a script that asks for several
            workers keeps its own doing below ``if __name__ == "__main__":``, since they import it.

    Raises:
        InputError: nothing to do, or a useless example.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    batch = Batch.plan(sources, out, suffix="extracted", overwrite=overwrite, plot=plot)
    examples = [enroll] if isinstance(enroll, (str, os.PathLike)) else list(enroll)
    prepare = _Prepare(examples, model, weights, encoder, encoder_weights, device, plot)
    name = model if isinstance(model, str) else type(model).__name__
    named = encoder if isinstance(encoder, str) else type(encoder).__name__
    return batch.run(
        FilesReport("extract", name, []),
        ExtractedFile,
        prepare,
        progress=progress,
        finished=finished,
        workers=workers,
        manifest=manifest,
        # what results depend on
        settings={
            **vars(prepare),
            "examples": [str(example) for example in examples],
            "model": name,
            "encoder": named,
            "device": None,
            "plot": None,
        },
    )


@dataclass(frozen=True)
class _Prepare:
    """The settings of a batch, as they travel to its workers."""

    examples: list[Source]
    model: str | Any
    weights: Source | None
    encoder: str | Any
    encoder_weights: Source | None
    device: str
    plot: bool

    def __call__(self, progress: Progress | None) -> _Extract:
        run = Run.load(
            self.examples,
            model=self.model,
            weights=self.weights,
            encoder=self.encoder,
            encoder_weights=self.encoder_weights,
            device=self.device,
        )
        return _Extract(run, self.plot, progress)


@dataclass(frozen=True)
class _Extract:
    """What is done to one file."""

    run: Run
    plot: bool
    progress: Progress | None

    def __call__(self, audio: AudioFile, target: Path, result: ExtractedFile) -> None:
        run = self.run
        measured = run.survey(audio, sketch=self.plot)
        result.seconds = measured.frames / audio.rate
        stream = run.stream(audio, measured=measured, progress=self.progress)
        deliver_waveform(stream, target, audio, result, measured, rate=audio.rate, frames=measured.frames)
        result.latency_ms = round(1000 * run.model.latency / run.model.sample_rate, 3)
        if measured.chunks:
            result.ms_per_chunk = round(1000 * measured.seconds / measured.chunks, 3)
        result.notes += measured.notes
