"""How much a speller tells in a minute, and how far a decoder is above chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harken.errors import InputError

GAZE_SHIFT = 0.5  # seconds to look at the next character, as the SSVEP literature counts it


def information_transfer_rate(
    accuracy: ArrayLike, classes: int, window: ArrayLike, *, gaze_shift: float = GAZE_SHIFT
) -> NDArray[np.float64]:
    """Bits a minute that selections among equally likely classes carry (Wolpaw).

    ``(log2 M + p log2 p + (1 - p) log2((1 - p) / (M - 1))) 60 / t``, with ``t = window + gaze_shift`` seconds; 0 below
    chance, exactly ``log2 M`` bits at p = 1. Average it over people and blocks; that of the mean accuracy is smaller.

    Args:
        accuracy: p, in [0, 1].
        classes: M, two or more.
        window: seconds of signal a selection takes.
        gaze_shift: seconds between them.

    Raises:
        InputError: accuracies, classes or times that cannot be.

    >>> float(information_transfer_rate(0.7989, classes=40, window=0.4).round(1))
    235.7
    >>> information_transfer_rate([0.02, 1.0], classes=40, window=0.4).round(1).tolist()
    [0.0, 354.8]
    """
    p, seconds = np.asarray(accuracy, np.float64), np.asarray(window, np.float64) + gaze_shift
    if classes < 2:
        raise InputError(f"expected two classes or more, got {classes}")
    if not ((p >= 0) & (p <= 1)).all():
        raise InputError("expected accuracies between 0 and 1, not percent")
    if not (np.isfinite(seconds) & (seconds > 0)).all():
        raise InputError("expected a positive time a selection")
    inner = p.clip(1e-300, 1)
    wrong = (1 - p).clip(1e-300, 1)
    bits = np.log2(classes) + p * np.log2(inner) + (1 - p) * np.log2(wrong / (classes - 1))
    return np.where(p < 1 / classes, 0.0, bits.clip(0)) * 60 / seconds


def cohen_kappa(truth: Any, predicted: Any) -> float:
    """Agreement beyond chance: ``(p - p_e) / (1 - p_e)``, 0 for guessing with the shares of the classes, 1 at best.

    >>> cohen_kappa([0, 0, 1, 1], [0, 0, 1, 0])
    0.5

    Raises:
        InputError: no labels, or not as many of one as of the other.
    """
    truth, predicted = np.asarray(truth), np.asarray(predicted)
    if truth.shape != predicted.shape or truth.ndim != 1 or not len(truth):
        raise InputError(f"expected as many predictions as labels, got {predicted.shape} and {truth.shape}")
    classes = np.union1d(truth, predicted)
    agreed = float((truth == predicted).mean())
    expected = float(sum((truth == k).mean() * (predicted == k).mean() for k in classes))
    return 1.0 if expected == 1 else (agreed - expected) / (1 - expected)
