"""Recordings of any length in, the course of a detector's probability and the events it finds out."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harken.data.brain import Recording
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.score.brain import cohen_kappa
from harken.score.seizures import EventScore, Span, f1_score, find_events, inside, score_events

if TYPE_CHECKING:
    from harken.models.brain.seizure import Course, SeizureDetector

_LARGEST = 1 << 20
_COLUMNS = 1500
_MOST_CHANNELS = 12


@dataclass(frozen=True)
class SeizureReport:
    """What a detector says of a recording.

    Attributes:
        name, seconds: of the recording.
        event: the class that is looked for.
        course: its probability along the recording.
        events: stretches above ``threshold``, seconds.
        truth: real events, where they are known, and then ``score`` (events) and ``kappa`` and ``f1`` (windows).
    """

    name: str
    seconds: float
    event: str
    threshold: float
    course: Course
    column: int
    events: list[Span]
    truth: list[Span] | None = None
    score: EventScore | None = None
    kappa: float | None = None
    f1: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "recording": self.name,
            "seconds": self.seconds,
            "event": self.event,
            "threshold": self.threshold,
            "window_seconds": self.course.window,
            "events": [{"start": start, "end": end} for start, end in self.events],
            "score": None if self.score is None else self.score.as_json(),
            "kappa_of_windows": self.kappa,
            "f1_of_windows": self.f1,
            "times": np.round(self.course.times, 4).tolist(),
            "probability": np.round(self.course.probabilities[:, self.column], 4).tolist(),
        }


def find_seizures(
    detector: SeizureDetector,
    recording: Recording,
    event: str,
    *,
    threshold: float = 0.5,
    step: int = 1,
    shortest: float = 0.0,
    gap: float = 0.0,
    truth: Sequence[Span] | None = None,
    progress: Callable[[float, str], None] | None = None,
) -> SeizureReport:
    """Slide a detector along a recording.

    Args:
        detector: fitted on trials of the recording's rate and montage.
        recording: any length from one trial on.
        event: which of the detector's classes is looked for.
        threshold, shortest, gap: see :func:`harken.score.seizures.find_events`.
        step: segments from one decision to the next.
        truth: when events really began and ended, seconds; windows that end within one are positive.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: no such class, or a recording that the detector cannot read.
    """
    classes = [str(name) for name in detector.classes_]
    if event not in classes:
        raise InputError(f"the detector knows no class '{event}': one of {', '.join(classes)}")
    if not 0 <= threshold < 1 or shortest < 0 or gap < 0:
        raise InputError("expected a threshold in [0, 1), and shortest and gap of at least 0 seconds")
    detector.progress = progress
    course = detector.predict_recording(recording, step=step)
    column = classes.index(event)
    probability = course.probabilities[:, column]
    hop = step * detector.segment / recording.sfreq
    # a window says what its last segments show: an event is dated from the segment with which it crosses
    events = find_events(course.times, probability, threshold=threshold, window=hop, shortest=shortest, gap=gap)
    report = SeizureReport(recording.name, recording.seconds, event, threshold, course, column, events)
    if truth is None:
        return report
    real, named = inside(course.times, truth), inside(course.times, events)
    return replace(
        report,
        truth=list(truth),
        score=score_events(truth, events, recording.seconds),
        kappa=cohen_kappa(real, named),
        f1=f1_score(real, named),
    )


def read_spans(path: str | os.PathLike[str]) -> list[Span]:
    """Events of a text file, one a line: start and end in seconds, with a comma, tab or space between.

    Raises:
        InputError: there is no such file, or a line is something else.
    """
    path, spans = Path(path), []
    if not path.is_file() or path.stat().st_size > _LARGEST:
        raise InputError(f"no list of events at '{path}'")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise InputError(f"'{path}' is not a text file with one event a line") from None
    for number, line in enumerate(lines, 1):
        cells = line.replace(",", " ").replace(";", " ").split()
        if not cells or (number == 1 and not _is_number(cells[0])):
            continue
        if len(cells) < 2 or not all(map(_is_number, cells[:2])) or float(cells[0]) > float(cells[1]):
            raise InputError(f"line {number} of '{path}' is no event: expected start and end in seconds")
        spans.append((float(cells[0]), float(cells[1])))
    return spans


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def draw_course(report: SeizureReport, recording: Recording, path: str | os.PathLike[str]) -> None:
    """The recording above the probability of the event, with what was found, and what was there, shaded.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    shown = recording.data[:_MOST_CHANNELS]
    figure = new_figure(10, 3.2 + 0.35 * len(shown))
    traces, line = figure.subplots(2, 1, sharex=True, height_ratios=[1 + 0.35 * len(shown), 1.6])
    block = max(1, shown.shape[1] // _COLUMNS)
    count = shown.shape[1] // block
    parts = shown[:, : count * block].reshape(len(shown), count, block)
    spread = float(np.median(shown.std(1))) * 8 or 1.0
    clock = (np.arange(count) + 0.5) * block / recording.sfreq
    for row, (low, high) in enumerate(zip(parts.min(2), parts.max(2), strict=True)):
        traces.fill_between(clock, low / spread - row, high / spread - row, color="#30506a", linewidth=0.4)
    traces.set_yticks(-np.arange(len(shown)), recording.ch_names[: len(shown)], fontsize=7)
    traces.set(ylim=(-len(shown) + 0.2, 0.8))
    line.plot(report.course.times, report.course.probabilities[:, report.column], color="#30506a", linewidth=1)
    line.axhline(report.threshold, color="#888888", linestyle="--", linewidth=0.8)
    line.set(ylim=(-0.02, 1.02), xlim=(0, report.seconds), xlabel="seconds", ylabel=f"probability of {report.event}")
    for number, (start, end) in enumerate(report.events):
        line.axvspan(start, end, color="#d07a2c", alpha=0.25, label="found" if number == 0 else None)
    for number, (start, end) in enumerate(report.truth or []):
        traces.axvspan(start, end, color="#4c9a5b", alpha=0.2, label="real" if number == 0 else None)
    for axes in (traces, line):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="upper right", fontsize=7)
    figure.suptitle(f"{report.name}: {len(report.events)} events in {report.seconds / 60:.1f} minutes", fontsize=10)
    save_figure(figure, path)
