"""Chirps drawn into spectrograms or sounded as signals: what a localizer learns from (arXiv 2503.22713)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float

from harken.errors import InputError

_AT_ONCE = 128
_WIDTH = 0.5  # variance of a trace across frequency, bins squared


@dataclass(frozen=True)
class ChirpGrid:
    """The picture that chirps are drawn into, and how long and wide they are; the defaults are the paper's.

    Attributes:
        duration, max_frequency: seconds and hertz that the picture covers, from 0.
        times, frequencies: its columns and rows; row 0 is 0 Hz.
        longest, widest: of a chirp: seconds (the shortest lasts one), hertz from start to end.
        noise: lowest and highest standard deviation of the white noise, one draw a picture; a trace has height 1.
        smoothing: standard deviation of the Gaussian that blurs trace and noise, in bins.
    """

    duration: float = 60.0
    max_frequency: float = 100.0
    times: int = 128
    frequencies: int = 128
    longest: float = 15.0
    widest: float = 30.0
    noise: tuple[float, float] = (0.09, 0.3)
    smoothing: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.times <= 4096 or not 2 <= self.frequencies <= 4096:
            raise InputError(f"expected 2 to 4096 columns and rows, got {self.times} and {self.frequencies}")
        numbers = (self.duration, self.max_frequency, self.longest, self.widest)
        if not all(np.isfinite(numbers)) or min(numbers) <= 0 or not 1 < self.longest < self.duration:
            raise InputError("expected positive sizes, and chirps longer than 1 s but shorter than the picture")
        if not 0 <= self.noise[0] <= self.noise[1] < np.inf or not 0 <= self.smoothing < np.inf:
            raise InputError("expected noise from a lower to a higher level, and smoothing of at least 0")


@dataclass(frozen=True)
class Chirps:
    """Where chirps are: seconds and hertz, one entry each.

    Attributes:
        start_time, duration: seconds.
        start_frequency, end_frequency: hertz.
        is_exponential: whether frequency grows by the same factor, not the same amount, in equal times.
    """

    start_time: Float[np.ndarray, " chirps"]
    start_frequency: Float[np.ndarray, " chirps"]
    end_frequency: Float[np.ndarray, " chirps"]
    duration: Float[np.ndarray, " chirps"]
    is_exponential: Bool[np.ndarray, " chirps"]

    def __post_init__(self) -> None:
        count = len(self.start_time)
        for field in fields(self):
            kind = bool if field.name == "is_exponential" else np.float64
            value = np.asarray(getattr(self, field.name), kind)
            if value.shape != (count,) or not np.isfinite(value).all():
                raise InputError(f"expected {count} finite numbers as {field.name}, got shape {value.shape}")
            object.__setattr__(self, field.name, value)

    def __len__(self) -> int:
        return len(self.start_time)

    def select(self, which: slice | np.ndarray) -> Chirps:
        """Some of them."""
        return Chirps(*(getattr(self, field.name)[which] for field in fields(self)))

    def targets(self) -> Float[np.ndarray, "chirps 3"]:
        """What is to be located: start time, start frequency, end frequency."""
        return np.stack((self.start_time, self.start_frequency, self.end_frequency), 1)

    def frequency_at(self, share: Float[np.ndarray, "chirps _"]) -> Float[np.ndarray, "chirps _"]:
        """Hertz when a share of the duration has passed, one row of shares a chirp."""
        start, end = self.start_frequency[:, None], self.end_frequency[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            grown = np.maximum(start, 1e-9) * (np.maximum(end, 1e-9) / np.maximum(start, 1e-9)) ** share
        return np.where(self.is_exponential[:, None], grown, start + (end - start) * share)


def draw_chirps(count: int, grid: ChirpGrid = ChirpGrid(), *, seed: int = 0) -> Chirps:
    """Chirps as the paper draws them, uniformly: no later than ``duration - longest``, cut at 0 and the top.

    >>> chirps = draw_chirps(1000, seed=3)
    >>> bool((chirps.start_time <= 45).all()), bool((abs(chirps.end_frequency - chirps.start_frequency) <= 30).all())
    (True, True)
    """
    rng = np.random.default_rng((seed, 0))
    start_time = rng.uniform(0, grid.duration - grid.longest, count)
    duration = rng.uniform(1.0, grid.longest, count)
    start = rng.uniform(0, grid.max_frequency, count)
    end = np.clip(start + rng.uniform(-grid.widest, grid.widest, count), 0, grid.max_frequency)
    return Chirps(start_time, start, end, duration, rng.random(count) < 0.5)


def chirp_spectrograms(
    chirps: Chirps,
    grid: ChirpGrid = ChirpGrid(),
    *,
    seed: int = 0,
    sub_bin: bool = False,
    noise: Float[np.ndarray, "chirps frequencies times"] | None = None,
    noise_level: Float[np.ndarray, " chirps"] | None = None,
) -> Float[np.ndarray, "chirps frequencies times"]:
    """Pictures of one chirp each: a ridge a few bins wide, white noise, and a blur over both.

    Column ``s + j`` of a chirp of ``n`` columns has its ridge at ``y = b0 + (b1 - b0) j / n`` (or ``b0 (b1 / b0)^(j /
    n)``), ``exp(-(f - y)^2 / 2 variance)`` in the five rows around it. As published, onset, length and both ends are
    cut to whole bins, which limits how well anything can locate them; with ``sub_bin`` they are drawn where they are.

    Args:
        chirps: one a picture.
        grid: the picture.
        seed: of noise and its level, where they are not given.
        sub_bin: draw between bins.
        noise: standard normal; drawn when None.
        noise_level: standard deviations; drawn when None.
    """
    made = np.empty((len(chirps), grid.frequencies, grid.times), np.float32)
    if noise_level is None:
        noise_level = np.random.default_rng((seed, 1)).uniform(*grid.noise, len(chirps))
    generator = torch.Generator().manual_seed(seed)  # twice as fast as NumPy's, and noise is most of the work
    rows = torch.from_numpy(_blur(grid.frequencies, grid.smoothing))
    columns = torch.from_numpy(_blur(grid.times, grid.smoothing)).T
    for start in range(0, len(chirps), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        count = len(chirps.start_time[part])
        if noise is None:
            picture = torch.randn(count, grid.frequencies, grid.times, generator=generator)
        else:
            picture = torch.from_numpy(noise[part].astype(np.float32))
        picture *= torch.from_numpy(np.asarray(noise_level[part], np.float32))[:, None, None]
        (_draw_between if sub_bin else _draw_whole)(picture.numpy(), chirps.select(part), grid)
        torch.matmul(rows, picture @ columns, out=torch.from_numpy(made[part]))
    return made


def chirp_signals(
    chirps: Chirps,
    sfreq: float,
    duration: float,
    *,
    snr: float = 0.0,
    slope: float = 1.0,
    seed: int = 0,
) -> Float[np.ndarray, "chirps samples"]:
    """The same chirps as signals, in noise whose power falls as ``1 / f^slope``.

    Args:
        chirps: one a signal; their frequencies below half the rate.
        sfreq, duration: hertz, seconds.
        snr: decibels of the chirp, while it lasts, over the noise in the octave around 10 Hz.
        slope: 0 for white noise.
        seed: of the noise and the phases.

    Raises:
        InputError: a chirp is too high for the rate.
    """
    if len(chirps) and max(chirps.start_frequency.max(), chirps.end_frequency.max()) >= sfreq / 2:
        raise InputError(f"chirps reach half of {sfreq:g} samples a second: raise sfreq")
    rng = np.random.default_rng((seed, 3))
    samples = round(duration * sfreq)
    spectrum = np.fft.rfft(rng.standard_normal((len(chirps), samples)))
    frequencies = np.fft.rfftfreq(samples, 1 / sfreq)
    gain = np.maximum(frequencies, 0.5) ** (-slope / 2)
    noise = np.fft.irfft(spectrum * gain, samples)
    octave = (frequencies >= 7.1) & (frequencies < 14.1)
    level = np.sqrt(np.sum(np.square(gain[octave])) / max(1, len(frequencies) - 1))
    time = np.arange(samples) / sfreq - chirps.start_time[:, None]
    share = time / chirps.duration[:, None]
    phase = 2 * np.pi * (np.cumsum(chirps.frequency_at(share.clip(0, 1)), 1) / sfreq + rng.random((len(chirps), 1)))
    sounding = (share >= 0) & (share < 1)
    return (noise + np.sqrt(2) * level * 10 ** (snr / 20) * np.sin(phase) * sounding).astype(np.float32)


def _draw_whole(picture: np.ndarray, chirps: Chirps, grid: ChirpGrid) -> None:
    """Add ridges at whole bins, as the released generator cuts them."""
    first = (chirps.start_time * grid.times / grid.duration).astype(np.int64)
    count = (chirps.duration * grid.times / grid.duration).astype(np.int64)
    low, high = (
        (frequency * grid.frequencies / grid.max_frequency).astype(np.int64).astype(np.float64)
        for frequency in (chirps.start_frequency, chirps.end_frequency)
    )
    low = np.where(chirps.is_exponential & (low == 0), 1.0, low)
    which = np.repeat(np.arange(len(chirps)), count)
    step = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
    share = step / count[which]
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(low > 0, high / low, 1.0)[which] ** share
    line = low[which] + (high - low)[which] * share
    y = np.where(chirps.is_exponential[which], low[which] * factor, line).clip(0, grid.frequencies - 1)
    column = first[which] + step
    inside = (column >= 0) & (column < grid.times)
    _add_ridge(picture, which[inside], column[inside], y[inside], np.ones(int(inside.sum())))


def _draw_between(picture: np.ndarray, chirps: Chirps, grid: ChirpGrid) -> None:
    """Add ridges where they are: the outermost columns by the share that the chirp fills of them."""
    wide, tall = grid.times / grid.duration, grid.frequencies / grid.max_frequency
    edges = np.arange(grid.times + 1)
    begin, end = chirps.start_time[:, None] * wide, (chirps.start_time + chirps.duration)[:, None] * wide
    filled = (np.minimum(edges[1:], end) - np.maximum(edges[:-1], begin)).clip(0, 1)
    which, column = np.nonzero(filled > 0)
    middle = (np.maximum(edges[:-1], begin) + np.minimum(edges[1:], end)) / 2
    share = ((middle - begin) / (end - begin)).clip(0, 1)
    # a bin's row is its middle
    y = (chirps.frequency_at(share) * tall - 0.5).clip(0, grid.frequencies - 1)
    _add_ridge(picture, which, column, y[which, column], filled[which, column])


def _add_ridge(picture: np.ndarray, which: np.ndarray, column: np.ndarray, y: np.ndarray, height: np.ndarray) -> None:
    rows = y.astype(np.int64)[:, None] + np.arange(-2, 3)
    weight = height[:, None] * np.exp(-0.5 * (rows - y[:, None]) ** 2 / _WIDTH)
    inside = (rows >= 0) & (rows < picture.shape[1])
    places = np.broadcast_to(which[:, None], rows.shape), rows, np.broadcast_to(column[:, None], rows.shape)
    # every place is met once: a chirp has one ridge a column
    picture[tuple(part[inside] for part in places)] += weight[inside].astype(np.float32)


def _blur(size: int, deviation: float) -> Float[np.ndarray, "size size"]:
    """A Gaussian blur along one axis as a matrix: cut off at four deviations, edges mirrored with the edge repeated."""
    if not deviation:
        return np.eye(size, dtype=np.float32)
    radius = int(4 * deviation + 0.5)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / deviation) ** 2)
    taps /= taps.sum()
    matrix = np.zeros((size, size))
    for offset, tap in zip(offsets, taps, strict=True):
        mirrored = (np.arange(size) + offset) % (2 * size)
        np.add.at(matrix, (np.arange(size), np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)), tap)
    return matrix.astype(np.float32)


def _reference(chirps: Chirps, grid: ChirpGrid, noise: np.ndarray, noise_level: np.ndarray) -> np.ndarray:
    """Whole bins, one pixel at a time, in double precision; the blur written out."""
    pictures = np.zeros((len(chirps), grid.frequencies, grid.times))
    for n in range(len(chirps)):
        first = int(chirps.start_time[n] * grid.times / grid.duration)
        count = int(chirps.duration[n] * grid.times / grid.duration)
        low = int(chirps.start_frequency[n] * grid.frequencies / grid.max_frequency)
        high = int(chirps.end_frequency[n] * grid.frequencies / grid.max_frequency)
        if chirps.is_exponential[n] and low == 0:
            low = 1
        for j in range(count):
            share = j / count
            y = low * (high / low) ** share if chirps.is_exponential[n] else low + (high - low) * share
            y = min(max(y, 0), grid.frequencies - 1)
            for f in range(max(0, int(y) - 2), min(grid.frequencies, int(y) + 3)):
                if first + j < grid.times:
                    pictures[n, f, first + j] += np.exp(-0.5 * (f - y) ** 2 / _WIDTH)
    pictures += noise_level[:, None, None] * noise
    radius = int(4 * grid.smoothing + 0.5)
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / grid.smoothing) ** 2)
    for axis in (1, 2):
        widths = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(pictures, widths, "symmetric")
        pictures = np.apply_along_axis(np.convolve, axis, padded, taps / taps.sum(), "valid")
    return pictures
