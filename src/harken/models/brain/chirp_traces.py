"""Traces of chirps in pictures: how much each stands out, and which of several is which."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from harken.data.chirps import Chirps

_POINTS, _MOVES = 32, 600
_BACKGROUND = 0.25  # deviation of a standardised picture's background


class FoundChirp(NamedTuple):
    """One chirp: seconds and hertz, and how bright its trace is (:func:`trace_strength`)."""

    start_time: float
    end_time: float
    start_frequency: float
    end_frequency: float
    is_exponential: bool
    strength: float
    channel: int


def trace_strength(
    picture: Float[np.ndarray, "frequencies times"], places: Float[np.ndarray, "traces 5"]
) -> Float[np.ndarray, " traces"]:
    """How bright each trace is, in deviations of what as many columns of background would be.

    ``mean along the trace / deviation of the background * sqrt(columns)``: longer and brighter is stronger, and going
    on where there is nothing makes it weaker, so it is greatest where the chirp really begins and ends.

    Args:
        picture: standardised, its background's median 0 and deviation 0.25.
        places: shares of the picture: start time, start and end frequency, duration, kind.
    """
    rows, times = picture.shape
    onset, low, high, duration, kind = places.T
    share = (np.arange(_POINTS) + 0.5) / _POINTS
    one = np.ones(len(places))
    frequency = Chirps(onset, low, high, one, kind > 0.5).frequency_at(np.broadcast_to(share, (len(places), _POINTS)))
    y = (frequency * rows - 0.5).clip(0, rows - 1.001)
    x = ((onset[:, None] + share * duration[:, None]) * times - 0.5).clip(0, times - 1.001)
    row, column = y.astype(np.int64), x.astype(np.int64)
    up, right = y - row, x - column
    left_side = picture[row, column] * (1 - up) + picture[row + 1, column] * up
    right_side = picture[row, column + 1] * (1 - up) + picture[row + 1, column + 1] * up
    bright = (left_side * (1 - right) + right_side * right).mean(1)
    return bright / _BACKGROUND * np.sqrt(np.maximum(duration * times, 1.0))


def refined(
    picture: Float[np.ndarray, "frequencies times"], place: Float[np.ndarray, " 5"], *, seed: int = 0
) -> tuple[Float[np.ndarray, " 5"], float]:
    """The strongest trace near a first guess, and its strength: random moves, each round smaller than the last."""
    rng = np.random.default_rng(seed)
    best = np.nan_to_num(place, nan=0.1).astype(np.float64)
    strength = float(trace_strength(picture, best[None])[0])
    shortest = 1.5 / picture.shape[1]
    for scale in (0.06, 0.03, 0.015, 0.008, 0.004):
        moved = best + rng.standard_normal((_MOVES, 5)) * scale
        moved[: _MOVES // 2, 3] = best[3] + best[0] - moved[: _MOVES // 2, 0]  # half of them keep their end
        moved[:, 4] = rng.random(_MOVES) < 0.5
        moved[:, :3] = moved[:, :3].clip(0, 1)
        moved[:, 3] = np.minimum(np.maximum(moved[:, 3], shortest), 1 - moved[:, 0])
        strengths = trace_strength(picture, moved)
        if strengths.max() > strength:
            best, strength = moved[strengths.argmax()], float(strengths.max())
    return best, strength


def strongest(chirps: list[FoundChirp]) -> list[FoundChirp]:
    """Of chirps of one channel that overlap in time and frequency the strongest."""
    kept: list[FoundChirp] = []
    for chirp in sorted(chirps, key=lambda found: -found.strength):
        if not any(_overlap(chirp, other) for other in kept):
            kept.append(chirp)
    return sorted(kept, key=lambda found: (found.start_time, found.channel))


def _overlap(one: FoundChirp, other: FoundChirp) -> bool:
    spans = [sorted((c.start_frequency, c.end_frequency)) for c in (one, other)]
    margin = 0.1 * max(spans[0][1], spans[1][1]) + 1.0
    return (
        one.channel == other.channel
        and one.start_time < other.end_time
        and other.start_time < one.end_time
        and spans[0][0] - margin < spans[1][1]
        and spans[1][0] - margin < spans[0][1]
    )
