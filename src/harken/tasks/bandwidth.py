"""The true bandwidth of a recording: where its spectrum ends, whatever its rate says; measured in constant memory."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

_WINDOW, _HOP = 2048, 1024
# the share of a frequency within which the spectrum falls by so many dB where it ends: steep filters, and slow ones
_CLIFFS = ((0.12, 20.0), (0.3, 30.0))
_EDGE = 10.0  # dB below the level that it falls from: there it ends
_BELOW = 0.25  # the share of a frequency beneath it that is taken for its level
_TOP = 0.98  # of the band: above, a resampler's own traces may lie
_QUIET = 60.0  # dB below the loudest frame: what is softer does not count


class BandwidthMeter:
    """Add blocks, then read where the spectrum falls off a cliff, for good.

    The mean power spectrum of all channels is searched upwards for the first frequency from 12 % above which nothing
    comes within 20 dB of what lies just below, or from 30 % above which, within 30 dB; resamplers leave a little
    next to half the rate, which does not count. Speech itself falls by a few dB in such a distance. Where the spectrum
    has fallen by 10 dB, it ends. Without a cliff the answer is half the rate.

    >>> meter = BandwidthMeter(48000)
    >>> meter.add(np.random.default_rng(0).standard_normal((48000, 1)).astype(np.float32))
    >>> meter.bandwidth
    24000.0
    """

    def __init__(self, rate: int):
        self.rate = rate
        self._window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
        self._held = np.zeros((0, 1), np.float32)
        self._power = np.zeros(_WINDOW // 2 + 1)
        self._loudest, self._frames = 0.0, 0

    def add(self, block: Float[np.ndarray, "frames channels"]) -> None:
        """Take in the next samples."""
        held = np.concatenate((self._held, block)) if self._held.size else block
        hops = max(0, (len(held) - _WINDOW) // _HOP + 1)
        for hop in range(hops):
            self._count(held[hop * _HOP : hop * _HOP + _WINDOW])
        self._held = held[hops * _HOP :]

    def _count(self, frame: Float[np.ndarray, "frames channels"]) -> None:
        spectrum = np.fft.rfft(frame * self._window[: len(frame), None], _WINDOW, axis=0)
        power = np.square(np.abs(spectrum)).mean(1)
        total = float(power.sum())
        self._loudest = max(self._loudest, total)
        if total > self._loudest * 10 ** (-_QUIET / 10):
            self._power += power
            self._frames += 1

    @property
    def bandwidth(self) -> float:
        """Hz; half the rate for a recording that fills its band, 0 for silence."""
        if not self._frames and self._held.size:
            self._count(self._held[:_WINDOW])  # shorter than a window
        if not self._power.any():
            return 0.0
        smooth = np.convolve(self._power, np.ones(5) / 5, "same")
        level = 10 * np.log10(smooth + smooth.max() * 1e-15)
        highest_above = np.maximum.accumulate(level[: round(_TOP * len(level))][::-1])[::-1]
        width = self.rate / _WINDOW
        for k in range(8, len(level) - 10):
            below = float(np.median(level[k - max(4, round(_BELOW * k)) : k]))
            for gap, drop in _CLIFFS:
                beyond = k + max(6, round(gap * k))
                if beyond < len(highest_above) and below - highest_above[beyond] > drop:
                    return float(k + np.flatnonzero(level[k:beyond] > below - _EDGE).max(initial=0)) * width
        return self.rate / 2
