"""Where a sound seems to come from: differences between the ears in level and in time, and what became of them."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from harken.errors import InputError
from harken.score.waveform import matched

LARGEST_DELAY = 0.001  # seconds: a head is not wider

Binaural = Float[np.ndarray, "2 samples"]


def ild(signal: Binaural) -> float:
    """Interaural level difference in dB: the left ear's energy over the right ear's; nan where an ear is silent.

    >>> round(ild(np.array([[2.0, -2.0], [1.0, 1.0]])), 2)
    6.02
    """
    left, right = (float(np.square(ear, dtype=np.float64).sum()) for ear in _both(signal))
    return 10 * math.log10(left / right) if left and right else float("nan")


def itd(signal: Binaural, rate: int) -> float:
    """Interaural time difference in seconds, positive where the left ear hears first; nan where an ear is silent.

    The lag of at most 1 ms with the largest cross-correlation of the ears below 1.5 kHz (above, phases repeat within a
    head's width), refined between samples by a parabola.

    >>> noise = np.random.default_rng(0).standard_normal(4000)
    >>> round(itd(np.stack((noise[4:], noise[:-4])), 16000) * 16000, 1)
    4.0
    """
    left, right = _both(signal)
    if not left.any() or not right.any():
        return float("nan")
    reach = max(1, round(LARGEST_DELAY * rate))
    n_fft = 1 << (len(left) + reach).bit_length()
    spectrum = np.fft.rfft(left, n_fft).conj() * np.fft.rfft(right, n_fft)
    spectrum *= np.fft.rfftfreq(n_fft, 1 / rate) < 1500
    around = np.fft.irfft(spectrum, n_fft)
    correlation = np.concatenate((around[-reach - 1 :], around[: reach + 2]))  # one more on each side for the parabola
    best = 1 + int(np.argmax(correlation[1:-1]))
    before, at, after = correlation[best - 1 : best + 2]
    bend = before - 2 * at + after
    return float(best - reach - 1 + (0.5 * (before - after) / bend if bend < 0 else 0.0)) / rate


def ild_error(reference: Binaural, estimate: Binaural) -> float:
    """By how many dB the level difference between the ears is off."""
    return abs(ild(estimate) - ild(reference))


def itd_error(reference: Binaural, estimate: Binaural, rate: int) -> float:
    """By how many microseconds the time difference between the ears is off."""
    return 1e6 * abs(itd(estimate, rate) - itd(reference, rate))


def _both(signal: Binaural) -> tuple[np.ndarray, np.ndarray]:
    if signal.ndim != 2 or signal.shape[0] != 2:
        raise InputError(f"expected both ears, (2, samples), got {signal.shape}")
    return matched(signal[0], signal[1])
