"""Narrowband and wideband pairs: speech as a narrow channel would have passed it, by filters that are never the same.

A model that was trained behind one anti-alias filter fails behind all others, so that the filter is drawn anew for each
item: its kind, cutoff, order, ripple and stopband, or one of soxr's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray
from torch.utils.data import Dataset

from harken.data.mixing import Recordings
from harken.errors import InputError

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class NarrowConfig:
    """How pairs are made.

    Attributes:
        sample_rate: of both sides, Hz.
        source_rates: the narrow side holds nothing above half of one of them, drawn for each item.
        seconds: of every item.
        filters: ``"drawn"`` for a new one each time, ``"soxr"`` for the resampler that :mod:`harken.data.audio` uses.
        gain: range of the level, dB below a peak of one.
    """

    sample_rate: int = 16000
    source_rates: tuple[int, ...] = (8000,)
    seconds: float = 0.5
    filters: str = "drawn"
    gain: tuple[float, float] = (-24.0, 0.0)

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or not 0 < self.seconds < 3600:
            raise InputError(
                f"expected a positive rate and less than an hour, got {self.sample_rate}, {self.seconds} s"
            )
        if not self.source_rates or not all(0 < rate < self.sample_rate for rate in self.source_rates):
            raise InputError(f"source rates must lie between 0 and {self.sample_rate} Hz, got {self.source_rates}")
        if self.filters not in ("drawn", "soxr"):
            raise InputError(f"filters are 'drawn' or 'soxr', got '{self.filters}'")
        if not -120 <= self.gain[0] <= self.gain[1] <= 0:
            raise InputError(f"gain is a range of at most 0 dB, low before high, got {self.gain}")


class NarrowSpeech(Dataset[tuple[Waveform, Waveform]]):
    """Endless, seeded pairs ``(narrow, wide)``: item ``i`` is the same in every process, worker and run.

    Args:
        wide: recordings that fill the band.
        config: how pairs are made.
        length: how many items the data set says it has.
        seed: of all of them.
    """

    def __init__(self, wide: Recordings, config: NarrowConfig | None = None, *, length: int, seed: int = 0):
        self.wide, self.config, self.length, self.seed = wide, config or NarrowConfig(), length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Waveform, Waveform]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng, c = np.random.default_rng((self.seed, index)), self.config
        samples = round(c.seconds * c.sample_rate)
        margin = min(c.sample_rate // 20, samples)  # filters ring at the ends of what they are given
        crop = self.wide.sounding_crop(samples + 2 * margin, rng)
        crop = crop * np.float32(10 ** (rng.uniform(*c.gain) / 20) / max(float(np.abs(crop).max()), 1e-6))
        source_rate = int(rng.choice(c.source_rates))
        narrow = draw_narrow(crop, c.sample_rate, source_rate, rng) if c.filters == "drawn" else None
        if narrow is None:
            narrow = through_soxr(crop, c.sample_rate, source_rate)
        return narrow[margin : margin + samples], crop[margin : margin + samples]


def through_soxr(samples: Waveform, rate: int, source_rate: int, quality: str = "HQ") -> Waveform:
    """Resampled to ``source_rate`` and back, as many samples as before."""
    down = soxr.resample(samples, rate, source_rate, quality=quality)
    return _fit(soxr.resample(down, source_rate, rate, quality=quality), len(samples))


def draw_narrow(samples: Waveform, rate: int, source_rate: int, rng: np.random.Generator) -> Waveform:
    """What a drawn filter leaves below half of ``source_rate``: of zero phase, and perhaps resampled there and back."""
    kind = rng.choice(("soxr", "chebyshev", "butterworth", "cosine"), p=(0.3, 0.3, 0.2, 0.2))
    if kind == "soxr":
        return through_soxr(samples, rate, source_rate, str(rng.choice(("LQ", "MQ", "HQ", "VHQ"))))
    padded = np.pad(samples, rate // 20)  # the filter's response must not come round to the other end
    frequency = np.asarray(np.fft.rfftfreq(len(padded), 1 / rate) / (source_rate / 2), np.float64)
    gain = np.maximum(_DRAWN[str(kind)](frequency, rng), 10 ** (-rng.uniform(60, 110) / 20))
    if rng.random() < 0.7:  # nothing is stored above half of the source rate; the rest is a slow filter's tail
        gain = np.where(frequency < 1, gain, 0)
    return np.fft.irfft(np.fft.rfft(padded) * gain, len(padded))[rate // 20 :][: len(samples)].astype(np.float32)


def _chebyshev(frequency: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Of the first kind, forward and backward: ``1 / (1 + e^2 T_n(f / c)^2)``."""
    order, ripple, cutoff = int(rng.integers(5, 13)), rng.uniform(0.01, 1.0), rng.uniform(0.8, 0.99)
    x = np.minimum(frequency / cutoff, 1e3)
    inside, outside = np.cos(order * np.arccos(np.minimum(x, 1))), np.cosh(order * np.arccosh(np.maximum(x, 1)))
    polynomial = np.where(x <= 1, inside, outside)
    return 1 / (1 + (10 ** (ripple / 10) - 1) * np.square(polynomial))


def _butterworth(frequency: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    order, cutoff = int(rng.integers(8, 25)), rng.uniform(0.75, 0.95)
    return 1 / (1 + np.minimum(frequency / cutoff, 1e3) ** (2 * order))


def _cosine(frequency: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    end = rng.uniform(0.9, 1.0)
    start = end * rng.uniform(0.8, 0.99)
    return 0.5 * (1 + np.cos(np.pi * np.clip((frequency - start) / (end - start), 0, 1)))


_DRAWN = {"chebyshev": _chebyshev, "butterworth": _butterworth, "cosine": _cosine}


def _fit(samples: Waveform, length: int) -> Waveform:
    return np.pad(samples, (0, max(0, length - len(samples))))[:length].astype(np.float32, copy=False)


def validation_pairs(
    wide: Recordings, config: NarrowConfig, items: int, seconds: float = 2.0
) -> Sequence[tuple[Waveform, Waveform]]:
    """Fixed pairs through soxr, at one level, the source rates in turn."""
    pairs = []
    for i in range(items):
        rate = config.source_rates[i % len(config.source_rates)]
        plain = NarrowConfig(config.sample_rate, (rate,), seconds, "soxr", (-6.0, -6.0))
        pairs.append(NarrowSpeech(wide, plain, length=items, seed=20_000)[i])
    return pairs
