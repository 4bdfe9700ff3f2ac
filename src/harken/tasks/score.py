"""Score: processed recordings against their references, one pair or two folders of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from harken.data.audio import Audio, read
from harken.errors import HarkenError, InputError, MissingExtraError
from harken.score.enhancement import METRICS, check_metrics, score_enhancement
from harken.score.extension import EXTENSION_METRICS, score_extension
from harken.tasks.pairing import Pair, pair_folders, run_pairs
from harken.whole_files import write_text

Source = str | os.PathLike[str] | Audio | np.ndarray | Tensor
Progress = Callable[[str, float, float], None]
"""Called with the pair's name, the pairs done and the pairs in all."""


_LAST_HOP = 0.02  # seconds that a system may drop at the end without a note


@dataclass(frozen=True)
class FileScore:
    """The scores of one pair; of several channels, their mean. A score without a value is nan.

    Attributes:
        name: the reference's name, within its folder.
        seconds: duration of what was compared.
        scores: metric to value; with ``align`` also ``delay_ms``.
        notes: what was done to make the pair comparable.
    """

    name: str
    seconds: float
    scores: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScoreReport:
    """What scoring found.

    Attributes:
        metrics: the columns, in the order asked.
        files: one entry per pair scored.
        errors: ``(name, message)`` of the pairs that could not be scored.
        unmatched: files without a partner in the other folder.
    """

    metrics: tuple[str, ...]
    files: tuple[FileScore, ...]
    errors: tuple[tuple[str, str], ...] = ()
    unmatched: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each metric over the files where it has a value; nan where none has."""
        columns = {name: [file.scores[name] for file in self.files] for name in self.metrics}
        return {name: _mean(values) for name, values in columns.items()}

    @property
    def exit_code(self) -> int:
        """0; 1 when a pair could not be scored; 2 when none could."""
        return 0 if not self.errors else 1 if self.files else 2

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types: nan becomes None."""
        files = [asdict(file) | {"scores": _without_nan(file.scores)} for file in self.files]
        return {
            "metrics": list(self.metrics),
            "mean": _without_nan(self.mean),
            "files": files,
            "errors": [{"name": name, "message": message} for name, message in self.errors],
            "unmatched": list(self.unmatched),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        write_text(Path(path), json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))


def score(
    reference: Source,
    estimate: Source,
    *,
    rate: int | None = None,
    metrics: Iterable[str] | None = None,
    align: bool = False,
    above: float | None = None,
    workers: int | None = 1,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score enhanced speech against clean references.

    Two folders are paired by name, then by name without suffix, subfolders included; a broken pair is reported and the
    rest scored. Channels are scored one by one and averaged; an estimate at another rate is resampled to the
    reference's.

    Args:
        reference: an audio file or a folder of them; or an :class:`~harken.data.audio.Audio`, an array ``(frames,)`` or
            ``(frames, channels)``, a tensor ``(samples,)`` or ``(batch, samples)``, full scale [-1, 1].
        estimate: what a system made of it; a file may stand beside an array.
        rate: of arrays and tensors, in Hz.
        metrics: names from :data:`harken.score.METRICS`; all when None.
        align: find and remove the estimate's delay, up to 50 ms, first.
        above: score an extended bandwidth, by :data:`harken.score.EXTENSION_METRICS`: where the band begins that the
            system was not given, Hz.
        workers: processes that score a folder; None takes as many as pay. More than one starts fresh interpreters, so a
            script then needs its ``if __name__ == "__main__":``.
        progress: called after each pair.

    Raises:
        InputError: nothing to pair, a folder beside a file, an unknown metric; for a single pair also what is wrong
            with it: see :func:`harken.data.audio.read` and :func:`harken.score.score_enhancement`.
        MissingExtraError: a metric's package is not installed.

    >>> clean, noise = np.random.default_rng(0).standard_normal((2, 16000))
    >>> report = score(clean, clean + 0.1 * noise, rate=16000, metrics=["si_sdr"])
    >>> round(report.mean["si_sdr"])
    20
    """
    names = check_metrics(metrics, METRICS if above is None else EXTENSION_METRICS)
    _check_packages(names)
    if above is not None and align:
        raise InputError("extended bandwidth is scored as it is: leave align= out, or above=")
    folders = [isinstance(side, (str, os.PathLike)) and Path(side).is_dir() for side in (reference, estimate)]
    if not any(folders):
        return ScoreReport(names, (_score_pair(reference, estimate, rate, names, align, above),))
    if not all(folders):
        raise InputError("a folder stands against a single recording: give two files or two folders")
    pairs, unmatched, ambiguous = pair_folders(Path(reference), Path(estimate))  # type: ignore[arg-type]
    results = run_pairs(_score_files, pairs, (names, align, above), workers, progress)
    return ScoreReport(
        names,
        tuple(result for result in results if isinstance(result, FileScore)),
        (
            *ambiguous,
            *((pair.name, result) for pair, result in zip(pairs, results, strict=True) if isinstance(result, str)),
        ),
        tuple(unmatched),
    )


def _score_files(pair: Pair, metrics: tuple[str, ...], align: bool, above: float | None) -> FileScore | str:
    """One pair of a folder, in a worker: the scores, or the one line that says what is wrong."""
    try:
        return _score_pair(pair.reference, pair.estimate, None, metrics, align, above, pair.name)
    except HarkenError as error:
        return str(error)


def _score_pair(
    reference: Source,
    estimate: Source,
    rate: int | None,
    metrics: tuple[str, ...],
    align: bool,
    above: float | None = None,
    name: str | None = None,
) -> FileScore:
    ours, theirs = _audio(reference, rate), _audio(estimate, rate)
    name = name or _name(reference) or _name(estimate) or "array"
    notes = []
    if theirs.rate != ours.rate:
        notes.append(f"estimate resampled from {theirs.rate} to {ours.rate} Hz")
        theirs = theirs.resample(ours.rate)
    if theirs.channels != ours.channels:
        raise InputError(
            f"'{name}' has {ours.channels} reference and {theirs.channels} estimated channels: give as many of both"
        )
    if abs(theirs.frames - ours.frames) > _LAST_HOP * ours.rate:
        notes.append(f"{ours.frames} and {theirs.frames} frames, the longer cut")
    channels = [channel for channel in range(ours.channels) if ours.samples[:, channel].any()]
    if 0 < len(channels) < ours.channels:
        notes.append(f"{ours.channels - len(channels)} silent reference channel(s) left out")
    found = []
    for channel in channels or [0]:
        sides = ours.samples[:, channel], theirs.samples[:, channel], ours.rate
        if above is None:
            found.append(score_enhancement(*sides, metrics, align=align))
        else:
            every = score_extension(*sides, above=above)
            found.append({metric: every[metric] for metric in metrics})
    scores = {metric: _mean([scores[metric] for scores in found]) for metric in found[0]}
    return FileScore(name, min(ours.frames, theirs.frames) / ours.rate, scores, tuple(notes))


def _audio(source: Source, rate: int | None) -> Audio:
    if isinstance(source, Audio):
        return source
    if isinstance(source, (str, os.PathLike)):
        return read(source)
    if rate is None:
        raise InputError("samples without a rate: pass rate= in Hz")
    # a tensor's channels come first, as in every model; an array's come last, as in every file
    return Audio(source.detach().cpu().numpy().T if isinstance(source, Tensor) else source, rate)


def _name(source: Source) -> str | None:
    return Path(source).name if isinstance(source, (str, os.PathLike)) else None


def _check_packages(metrics: tuple[str, ...]) -> None:
    """Say that a package is missing once, before any file is read."""
    for package in {METRICS[name].package for name in metrics if name in METRICS} - {None}:
        if package and find_spec(package) is None:
            raise MissingExtraError(package, extra="score")


def _mean(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _without_nan(scores: dict[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in scores.items()}
