"""Separate files: many recordings of any length in constant memory, a folder of stems for each, whole or absent."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harken.data.audio import FORMATS, AudioFile, AudioWriter, open_audio, open_writer
from harken.errors import InputError, OutputError
from harken.figures import require_matplotlib
from harken.tasks.batch import PIPE, Job, find_inputs
from harken.tasks.file_reports import Batch, FileResult, FilesReport, note_clipping
from harken.tasks.recordings import Progress
from harken.tasks.separate import Run
from harken.tasks.stem_pictures import draw_stems

SUFFIX = ".stems"


@dataclass
class SeparatedFile(FileResult):
    """What became of one input; ``output`` is the folder of its stems.

    Attributes:
        stems: paths by name.
        input_level_dbfs: RMS of all channels, not below -120.
        stem_levels_dbfs: the same of each stem.
    """

    stems: dict[str, str] = field(default_factory=dict)
    input_level_dbfs: float | None = None
    stem_levels_dbfs: dict[str, float] = field(default_factory=dict)


SeparateReport = FilesReport[SeparatedFile]


def separate_files(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    stems: Sequence[str] | None = None,
    rest: bool = False,
    model: str | Any | None = None,
    weights: str | os.PathLike[str] | None = None,
    shifts: int = 0,
    segment: float | None = None,
    overlap: float = 0.25,
    format: str | None = None,
    device: str = "cpu",
    plot: bool = False,
    progress: Progress | None = None,
    finished: Callable[[SeparatedFile], None] | None = None,
    workers: int = 1,
    manifest: str | os.PathLike[str] | None = None,
) -> SeparateReport:
    """Separate files, folders and patterns; a broken one does not stop the rest.

    The stems of an input appear together, in a folder of their own, or not at all. They keep its rate, channels and,
    where libsndfile can write it, its format and sample format.

    Args:
        sources: files, folders (searched recursively), patterns such as ``"songs/**/*.flac"``, ``"-"`` for a pipe.
        out: a folder, made if missing, with a folder for each input; beside each input as ``<name>.stems`` when None.
        format: of the stems, ``"wav"``, ``"flac"``...; that of each input when None.
        stems, rest, model, weights, shifts, segment, overlap, device, progress: as for
            :func:`harken.tasks.separate.separate`.
        plot: draw the spectrograms of the mixture and its stems, ``stems.png`` beside these.
        finished, workers, manifest: as for :meth:`harken.tasks.file_reports.Batch.run`; a script that asks for several
            workers keeps its own doing below ``if __name__ == "__main__":``, since they import it.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: two inputs with one folder, or stems that would replace an input.
        CheckpointError: the weights cannot be used.
        MissingExtraError: ``plot`` without matplotlib.
    """
    if plot:
        require_matplotlib()
    ending = None if format is None else f".{format.lower().lstrip('.')}"
    if ending is not None and ending not in FORMATS:
        raise InputError(f"cannot write stems as '{format}': one of {', '.join(sorted(e[1:] for e in FORMATS))}")
    batch = _plan(sources, out)
    chosen = None if stems is None else tuple(stems)
    prepare = _Prepare(model, weights, chosen, rest, shifts, segment, overlap, ending, device, plot)
    name = model if isinstance(model, str) else "demucs" if model is None else type(model).__name__
    return batch.run(
        FilesReport("separate", name, []),
        SeparatedFile,
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

    model: str | Any | None
    weights: str | os.PathLike[str] | None
    stems: tuple[str, ...] | None
    rest: bool
    shifts: int
    segment: float | None
    overlap: float
    ending: str | None
    device: str
    plot: bool

    def __call__(self, progress: Progress | None) -> _Separate:
        run = Run.load(
            self.model,
            self.weights,
            stems=self.stems,
            rest=self.rest,
            shifts=self.shifts,
            segment=self.segment,
            overlap=self.overlap,
            device=self.device,
        )
        return _Separate(run, self.ending, self.plot, progress)


@dataclass(frozen=True)
class _Separate:
    """What is done to one file."""

    run: Run
    ending: str | None
    plot: bool
    progress: Progress | None

    def __call__(self, audio: AudioFile, target: Path, result: SeparatedFile) -> None:
        run = self.run
        measured = run.survey(audio, sketch=self.plot)
        result.seconds = measured.frames / audio.rate
        suffix = self.ending or (Path(result.input).suffix.lower() if result.input != "-" else ".wav")
        names = {name: f"{name}{suffix if suffix in FORMATS else '.wav'}" for name in run.names}

        def opened(path: Path) -> AbstractContextManager[AudioWriter]:
            return open_writer(path, audio.rate, audio.channels, like=audio.encoding, frames=measured.frames)

        with _whole_folder(target) as partial:
            with ExitStack() as stack:
                writers = {name: stack.enter_context(opened(partial / file)) for name, file in names.items()}
                for block in run.stream(audio, measured=measured, progress=self.progress):
                    for name, part in run.split(block).items():
                        writers[name].write(part)
            if self.plot:
                draw_stems(measured.sketches, partial / "stems.png", title=Path(result.input).name)
        result.encoding = " ".join(next(iter(writers.values())).encoding)
        result.stems = {name: str(target / file) for name, file in names.items()}
        result.picture = str(target / "stems.png") if self.plot else None
        result.input_level_dbfs = round(measured.before.dbfs, 2)
        result.stem_levels_dbfs = {name: round(meter.dbfs, 2) for name, meter in measured.after.items()}
        result.notes += measured.notes
        note_clipping(result, max(meter.peak for meter in measured.after.values()))


def _plan(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None
) -> Batch:
    """A folder for the stems of each input; what lies in such folders is passed over when it is found by searching."""
    named = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    jobs = find_inputs(named)
    if out is not None and (str(out) in ("-", "") or Path(out).is_file()):
        raise OutputError(f"stems are several files: name a folder with -o, got '{out}'")
    if out is None and any(job.source == PIPE for job in jobs):
        raise OutputError("stems are several files: name a folder for them with -o")
    jobs = [job for job in jobs if not (job.found and _is_stem(job, out))]
    if not jobs:
        raise InputError(f"nothing left to do: every file found is a stem already (in *{SUFFIX})")
    plan = [(job, _folder_of(job, out)) for job in jobs]
    inside = {os.path.realpath(job.source.parent): job.source for job in jobs if job.source != PIPE}
    taken: dict[str, Path] = {}
    for job, target in plan:
        real = os.path.realpath(target)
        if real in taken:
            raise OutputError(f"'{taken[real]}' and '{job.source}' would both become '{target}': do them one by one")
        if real in inside:
            raise OutputError(f"the stems of '{job.source}' would lie beside the input '{inside[real]}': choose -o")
        if target.exists() and not target.is_dir():
            raise OutputError(f"cannot put stems into '{target}': it is a file; choose -o")
        taken[real] = job.source
    if len(plan) == 1 and not (plan[0][0].source == PIPE or plan[0][0].source.is_fifo()):
        with open_audio(plan[0][0].source):  # a mistake in the only file is told before the model is loaded
            pass
    return Batch(plan, in_folder=True)


def _folder_of(job: Job, out: str | os.PathLike[str] | None) -> Path:
    if out is None:
        return job.source.with_name(f"{job.source.stem}{SUFFIX}")
    return Path(out) / (job.relative.with_suffix("") if job.source != PIPE else "stdin")


def _is_stem(job: Job, out: str | os.PathLike[str] | None) -> bool:
    if any(part.endswith(SUFFIX) for part in job.relative.parts[:-1]):
        return True
    if out is None:
        return False
    root, results = Path(os.path.realpath(job.source.parents[len(job.relative.parts) - 1])), Path(os.path.realpath(out))
    inside = results != root and results.is_relative_to(root)
    return inside and Path(os.path.realpath(job.source)).is_relative_to(results)


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``target`` when the block ends well, and vanishes when it does not.

    Files of a target that is there already are replaced, one by one; others in it stay.
    """
    partial = target.with_name(f".{target.name[:40]}.{secrets.token_hex(4)}.partial")
    try:
        try:
            partial.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make a folder beside '{target}': {error.strerror}") from error
        yield partial
        try:
            if target.is_dir():
                for file in partial.iterdir():
                    file.replace(target / file.name)
            else:
                partial.rename(target)
        except OSError as error:
            raise OutputError(f"cannot put the stems into '{target}': {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
