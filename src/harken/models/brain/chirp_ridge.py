"""Chirps without learning: follow the brightest row from column to column, the baseline of chirp localization."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_THRESHOLD = 1.2  # of a standardised picture: 4.8 deviations of the background, which 100 rows rarely reach by chance
_JUMP, _GAP = 4, 2  # rows between neighbouring columns, columns without a ridge, that one track may bridge


def follow_ridge(
    pictures: Float[np.ndarray, "pictures frequencies times"], threshold: float = _THRESHOLD
) -> Float[np.ndarray, "pictures 5"]:
    """Start time, start frequency, end frequency, duration and kind of the strongest track, as shares of the picture.

    In every column the brightest row counts, if it is above a threshold. Columns whose rows are near each other make
    a track; the one with most brightness is the chirp. Its ends are those of its columns less the blur, its
    frequencies there those of a parabola through it. The kind is 1 where the parabola's bend fits exponential growth
    better than a line. Where nothing is above the threshold, the brightest point is all there is.

    Args:
        pictures: standardised (:func:`harken.models.brain.chirp_training.standardised_pictures`), row 0 the lowest.
        threshold: in their units, a quarter of the background's standard deviation.
    """
    return np.stack([_follow(picture, threshold) for picture in pictures]) if len(pictures) else np.zeros((0, 5))


def _follow(picture: np.ndarray, threshold: float) -> np.ndarray:
    rows, times = picture.shape
    best, brightness = picture.argmax(0), picture.max(0)
    columns = np.flatnonzero(brightness > threshold)
    if not len(columns):
        column = int(brightness.argmax())
        height = (best[column] + 0.5) / rows
        return np.array([column / times, height, height, 1 / times, 0.0])
    steps = np.diff(columns)
    broken = (steps > _GAP + 1) | (np.abs(np.diff(best[columns])) > _JUMP * steps)
    tracks = np.split(columns, np.flatnonzero(broken) + 1)
    track = max(tracks, key=lambda part: float(brightness[part].sum()))
    heights = _between_rows(picture, track, best[track])
    # a blur of one column lets a track begin and end about a column early and late
    first, last = track[0] + min(1, len(track) // 4), track[-1] - min(1, len(track) // 4)
    low, high, bend = heights[0], heights[-1], 0.0
    if len(track) >= 4:
        place = (track - first) / max(1, last - first)
        fitted = np.polynomial.Polynomial.fit(place, heights, 2 if len(track) >= 8 else 1)
        low, high = fitted(0.0), fitted(1.0)
        bend = float(fitted(0.5) - (low + high) / 2)
    grown = np.sqrt(max(low, 1e-3) * max(high, 1e-3)) - (low + high) / 2  # how far exponential growth would sag
    return np.array(
        [
            first / times,
            np.clip((low + 0.5) / rows, 0, 1),
            np.clip((high + 0.5) / rows, 0, 1),
            (last - first + 1) / times,
            float(bend < grown / 2 < 0),
        ]
    )


def _between_rows(picture: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The centre of brightness of five rows around the brightest."""
    near = (rows[:, None] + np.arange(-2, 3)).clip(0, len(picture) - 1)
    weight = picture[near, columns[:, None]].clip(0) + 1e-6
    return (near * weight).sum(1) / weight.sum(1)
