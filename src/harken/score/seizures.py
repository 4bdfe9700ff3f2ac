"""How well a detector finds events such as seizures: events found, false ones an hour, agreement window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from harken.errors import InputError

Span = tuple[float, float]


@dataclass(frozen=True)
class EventScore:
    """What a detector's events are worth.

    Attributes:
        found: true events that a detected one overlaps.
        missed: those that none does.
        false: detected events that overlap no true one.
        sensitivity: ``found`` over all true events; NaN without any.
        precision: detected events that are right; NaN without any.
        f1: harmonic mean of the two; 0 where one is 0 or NaN.
        false_per_hour: of recording.
    """

    found: int
    missed: int
    false: int
    sensitivity: float
    precision: float
    f1: float
    false_per_hour: float

    def as_json(self) -> dict[str, Any]:
        """Plain numbers, None where one is not defined."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def find_events(
    times: Float[np.ndarray, " windows"],
    probability: Float[np.ndarray, " windows"],
    *,
    threshold: float = 0.5,
    window: float = 0.0,
    shortest: float = 0.0,
    gap: float = 0.0,
) -> list[Span]:
    """Stretches in which a probability stays above a threshold, seconds from start to end.

    Args:
        times: when each window ends, seconds, rising.
        probability: of an event, window by window.
        threshold: above it a window counts.
        window: seconds of a window: an event begins that much before its first window ends.
        shortest: events below so many seconds are dropped.
        gap: events apart by less than so many seconds are one, and always those whose windows overlap.

    Raises:
        InputError: times that do not rise, probabilities outside [0, 1], or another number of them.

    >>> find_events(np.arange(1.0, 9.0), np.array([0, 0.9, 0.8, 0, 0, 0.7, 0, 0]), window=1.0)
    [(1.0, 3.0), (5.0, 6.0)]
    """
    times, probability = np.asarray(times, np.float64), np.asarray(probability, np.float64)
    if times.ndim != 1 or times.shape != probability.shape or (np.diff(times) <= 0).any():
        raise InputError(f"expected rising times and one probability each, got {times.shape} and {probability.shape}")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise InputError("expected probabilities between 0 and 1")
    edges = np.flatnonzero(np.diff(np.concatenate(([False], probability > threshold, [False])).astype(int)))
    spans: list[Span] = []
    for first, stop in edges.reshape(-1, 2):
        start, end = float(times[first] - window), float(times[stop - 1])
        if spans and start - spans[-1][1] < gap:
            spans[-1] = (spans[-1][0], end)
        else:
            spans.append((start, end))
    return [span for span in spans if span[1] - span[0] >= shortest]


def score_events(true: Sequence[Span], detected: Sequence[Span], seconds: float) -> EventScore:
    """Any overlap counts, as clinicians count.

    Args:
        true: when events really began and ended, seconds.
        detected: when they did by the detector.
        seconds: how much was listened to.

    Raises:
        InputError: an event ends before it begins, or the recording is of no length.

    >>> score = score_events([(10, 20), (50, 60)], [(18, 25), (30, 31)], seconds=1800)
    >>> score.sensitivity, score.precision, score.false_per_hour
    (0.5, 0.5, 2.0)
    """
    if not 0 < seconds < np.inf or any(end < start for start, end in [*true, *detected]):
        raise InputError("expected events that end after they begin, in a recording of positive length")

    def overlaps(one: Span, others: Sequence[Span]) -> bool:
        return any(one[0] < end and start < one[1] for start, end in others)

    found = sum(overlaps(span, detected) for span in true)
    right = sum(overlaps(span, true) for span in detected)
    sensitivity = found / len(true) if true else float("nan")
    precision = right / len(detected) if detected else float("nan")
    f1 = 2 * sensitivity * precision / (sensitivity + precision) if found and right else 0.0
    false = len(detected) - right
    return EventScore(found, len(true) - found, false, sensitivity, precision, f1, false * 3600 / seconds)


def inside(times: Float[np.ndarray, " windows"], spans: Sequence[Span]) -> Bool[np.ndarray, " windows"]:
    """Whether each time lies in one of some events: the labels of windows that end then."""
    times = np.asarray(times, np.float64)
    return np.any([(start < times) & (times <= end) for start, end in spans], axis=0) if spans else times < -np.inf


def f1_score(true: Bool[np.ndarray, " windows"], named: Bool[np.ndarray, " windows"]) -> float:
    """Harmonic mean of precision and recall over windows; 0 where nothing is right.

    >>> f1_score(np.array([True, True, False]), np.array([True, False, False]))
    0.6666666666666666
    """
    right = int((np.asarray(true, bool) & np.asarray(named, bool)).sum())
    return 2 * right / (int(np.sum(true)) + int(np.sum(named))) if right else 0.0
