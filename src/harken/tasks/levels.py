"""Levels of a stream, measured in constant memory: RMS per channel, peak, and the level of its quietest tenth."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

FRAME_SECONDS = 0.02
QUIETEST_DBFS = -120.0  # digital silence has no level; it is given this one


class LevelMeter:
    """Add blocks, then read levels. 0 dBFS is an RMS of 1, so that a full-scale sine has -3 dBFS.

    >>> meter = LevelMeter(channels=1, rate=16000)
    >>> meter.add(np.full((16000, 1), 0.1, np.float32))
    >>> round(meter.dbfs, 1), round(meter.quiet_dbfs, 1)
    (-20.0, -20.0)
    """

    _STEP = 0.1  # dB per bin of the histogram of frame levels

    def __init__(self, channels: int, rate: int):
        self.frames, self.peak = 0, 0.0
        self._energy = np.zeros(channels)
        self._frame = max(1, round(rate * FRAME_SECONDS))
        self._rest = np.zeros(0)
        self._histogram = np.zeros(round((40 - QUIETEST_DBFS) / self._STEP) + 1, np.int64)

    def add(self, block: Float[np.ndarray, "frames channels"]) -> None:
        """Take in the next samples."""
        if not len(block):
            return
        power = np.square(block, dtype=np.float64)
        self.frames += len(block)
        self.peak = max(self.peak, float(np.abs(block).max()))
        self._energy += power.sum(0)
        self._rest = np.concatenate((self._rest, power.mean(1)))
        whole = len(self._rest) // self._frame * self._frame
        self._count(self._rest[:whole].reshape(-1, self._frame).mean(1))
        self._rest = self._rest[whole:]

    def _count(self, powers: Float[np.ndarray, " frames"]) -> None:
        bins = np.round((decibels(powers) - QUIETEST_DBFS) / self._STEP).astype(int)
        np.add.at(self._histogram, np.clip(bins, 0, len(self._histogram) - 1), 1)

    @property
    def rms(self) -> Float[np.ndarray, " channels"]:
        """Linear RMS of each channel."""
        return np.sqrt(self._energy / max(self.frames, 1))

    @property
    def dbfs(self) -> float:
        """Level of all channels together, dBFS."""
        return float(decibels(self._energy.mean(keepdims=True) / max(self.frames, 1))[0])

    @property
    def quiet_dbfs(self) -> float:
        """The 10th percentile of the levels of 20 ms frames, dBFS: in speech with pauses, the noise floor."""
        total = self._histogram.sum()
        if total == 0:  # shorter than a frame
            return self.dbfs
        reached = np.searchsorted(np.cumsum(self._histogram), max(1, 0.1 * total))
        return float(QUIETEST_DBFS + reached * self._STEP)


def decibels(power: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """``10 log10(power)``, not below -120 dB."""
    return 10 * np.log10(np.maximum(power, 10 ** (QUIETEST_DBFS / 10)))
