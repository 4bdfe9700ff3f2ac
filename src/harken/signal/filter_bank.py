"""Zero-phase Chebyshev filter banks over the harmonics of a flicker (arXiv 2011.08562)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from harken.errors import InputError, MissingExtraError

Design = Literal["gentle", "steep"]
DESIGNS: tuple[Design, ...] = get_args(Design)
HIGH = 90.0  # Hz: where every band ends
_MOST_BANDS = 10


def split_bands(
    x: Float[np.ndarray, "*batch channels samples"],
    sfreq: float,
    bands: int = 3,
    *,
    design: Design = "gentle",
) -> Float[np.ndarray, "*batch bands channels samples"]:
    """Sub-bands that begin at one harmonic after the other and all end at 90 Hz, in double precision.

    The lower harmonics of a flicker drown in alpha waves and eye movements, the higher ones do not: seen one by one
    they tell more than together. Filters run forwards and backwards, so nothing is delayed.

    - ``"gentle"``: ``[8 i, 90]`` Hz, i = 1, 2, …; Chebyshev I of second order in all, 1 dB of ripple, an odd extension
      of six samples at the ends. What the SSVEP network reads.
    - ``"steep"``: ``[8 i - 2, 90]`` Hz, 0.5 dB of ripple, 40 dB down six hertz below (two and four in the first two
      bands) and ten above. What filter-bank CCA was published with; rings too long for windows of a quarter second.

    Args:
        x: any unit; cut first and filter afterwards, as a speller does that cannot look ahead.
        sfreq: samples a second. Where half of it lies below 100 Hz, the bands end at nine tenths of that half.
        bands: how many.
        design: of the filters.

    Raises:
        InputError: more bands than fit, or fewer samples than the filters need.

    >>> x = np.sin(2 * np.pi * 10 * np.arange(500) / 250)[None]
    >>> low, middle, high = split_bands(x, 250.0, 3)
    >>> bool(np.abs(low).max() > 0.8 and np.abs(high).max() < 0.7)
    True
    """
    filters = _design(float(sfreq), int(bands), design)
    samples = x.shape[-1]
    shortest = 7 if design == "gentle" else 12
    if samples < shortest:
        raise InputError(f"expected at least {shortest} samples to filter, got {samples}: take a longer window")
    signal = _scipy_signal()
    x = np.asarray(x, np.float64)
    if design == "gentle":
        made = [signal.filtfilt(*taps, x, padtype="odd", padlen=6) for taps in filters]
    else:
        made = [signal.sosfiltfilt(taps, x, padlen=min(6 * len(taps) + 3, samples - 1)) for taps in filters]
    return np.stack(made, -3)


def band_weights(bands: int, exponent: float = 1.25, offset: float = 0.25) -> Float[np.ndarray, " bands"]:
    """How much each band counts, ``n^-1.25 + 0.25``: the lower, the more.

    >>> band_weights(2).round(3).tolist()
    [1.25, 0.67]
    """
    return np.arange(1, bands + 1) ** -exponent + offset


@lru_cache(maxsize=64)
def _design(sfreq: float, bands: int, design: Design) -> tuple[Any, ...]:
    if design not in DESIGNS:
        raise InputError(f"expected a design among {', '.join(DESIGNS)}, got '{design}'")
    if not np.isfinite(sfreq) or sfreq <= 0:
        raise InputError(f"expected a positive sampling rate, got {sfreq:g} Hz")
    if not 1 <= bands <= _MOST_BANDS:
        raise InputError(f"expected 1 to {_MOST_BANDS} bands, got {bands}")
    high = HIGH if sfreq > 200 else 0.9 * sfreq / 2
    lows = [8.0 * number - (2 if design == "steep" else 0) for number in range(1, bands + 1)]
    if lows[-1] >= high:
        raise InputError(f"band {bands} would begin at {lows[-1]:g} Hz, above its end at {high:g} Hz: take fewer bands")
    return tuple(_gentle(low, high, sfreq) if design == "gentle" else _steep(low, high, sfreq) for low in lows)


def _gentle(low: float, high: float, sfreq: float) -> Any:
    # a band-pass has twice the order of its prototype
    return _scipy_signal().cheby1(1, 1.0, [low, high], "bandpass", fs=sfreq)


def _steep(low: float, high: float, sfreq: float) -> NDArray[np.float64]:
    signal = _scipy_signal()
    stops = [low - 2 if low == 6 else low - 4 if low == 14 else low - 6, min(high + 10, 0.99 * sfreq / 2)]
    order, edges = signal.cheb1ord([low, high], stops, 3, 40, fs=sfreq)
    return signal.cheby1(order, 0.5, edges, "bandpass", fs=sfreq, output="sos")


def _scipy_signal() -> Any:
    try:
        from scipy import signal
    except ImportError:
        raise MissingExtraError("scipy", extra="brain") from None
    return signal
