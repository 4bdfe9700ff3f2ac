"""The distorted versions of a reference that span its cluster: one bank for PS, one for PM (arXiv 2509.09212)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from importlib.util import find_spec
from itertools import chain
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from harken.errors import InputError, MissingExtraError
from harken.score._time_stretch import fixed_length, pitch_shift, time_stretch

RATE = 16_000
FRAME = 320  # samples: 20 ms

_Rows = Iterator[NDArray[np.float64]]
_Maker = TypeVar("_Maker")

_COMBS = ((2.5, 0.4), (5.0, 0.5), (7.5, 0.6), (10.0, 0.7), (12.5, 0.9))  # ms ahead, gain
_RATES = (1, 2, 4, 6)  # Hz of the tremolo
_TONES = (100, 500, 1000, 4000)  # Hz
_SHIFTS = (-4, -2, 2, 4)  # semitones
_NOISES = tuple(
    (snr, colour) for snr in range(-15, 26, 5) for colour in ("white", "pink", "brown") if snr >= 0 or colour != "white"
)
_LEAST = 1e-4  # of a frame's peak, RMS and percentile


def separation_bank(
    reference: Float[np.ndarray, " samples"], rng: np.random.Generator, kinds: Collection[str] | None = None
) -> Float[np.ndarray, "distortions samples"]:
    """The bank for PS: 71 distortions of the whole signal at 16 kHz, in the paper's order.

    Args:
        reference: the clean source.
        rng: of the noises.
        kinds: names from :data:`SEPARATION_KINDS`; all when None.

    Raises:
        InputError: an unknown kind.
        MissingExtraError: SciPy is not installed.

    >>> separation_bank(np.sin(np.arange(8000) / 9), np.random.default_rng(0), ["comb", "clipping"]).shape
    (8, 8000)
    """
    x = np.asarray(reference, np.float64)
    return _stacked([makes(x, rng) for makes in _chosen(_SEPARATION, kinds)], len(x))


def match_bank(
    reference: Float[np.ndarray, " samples"], rng: np.random.Generator, kinds: Collection[str] | None = None
) -> Float[np.ndarray, "distortions padded"]:
    """The bank for PM: each 20-ms frame is distorted by itself; its size depends on the signal's spectrum.

    The signal is padded to whole frames. Notches sit at its strongest spectral peaks, filters at its power's quantiles.
    A reverberation or an echo of 50 ms and more, which the paper names, does not fit into a frame and is left out.

    Args:
        reference: the clean source.
        rng: of the noises.
        kinds: names from :data:`MATCH_KINDS`; all when None.

    Raises:
        InputError: an unknown kind.
        MissingExtraError: SciPy is not installed.

    >>> match_bank(np.sin(np.arange(8100) / 9), np.random.default_rng(0), ["comb", "clipping"]).shape
    (8, 8320)
    """
    x = np.asarray(reference, np.float64)
    x = np.pad(x, (0, -len(x) % FRAME))
    frames = _Frames(x)
    return _stacked([makes(frames, rng) for makes in _chosen(_MATCH, kinds)], len(x))


def _chosen(makers: dict[str, _Maker], kinds: Collection[str] | None) -> list[_Maker]:
    if find_spec("scipy") is None:
        raise MissingExtraError("scipy", extra="score")
    unknown = set(kinds or ()) - makers.keys() - {"reverb", "echo"}
    if unknown:
        raise InputError(f"no distortion named '{min(unknown)}': choose among {', '.join(makers)}")
    return [makes for name, makes in makers.items() if kinds is None or name in kinds]


def _stacked(banks: list[_Rows], samples: int) -> Float[np.ndarray, "distortions samples"]:
    # single precision row by row: the bank in double would be the largest thing in memory
    rows = [np.asarray(row, np.float32).reshape(-1) for row in chain.from_iterable(banks)]
    return np.stack(rows) if rows else np.zeros((0, samples), np.float32)


def _ahead(x: NDArray[np.float64], milliseconds: float, gain: float) -> NDArray[np.float64]:
    delay = int(RATE * milliseconds / 1000)
    out = x.copy()
    out[..., :-delay] += gain * x[..., delay:]
    return out


def _swing(rate: float, depth: float, time: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - depth + depth / 2 * (1 + np.sin(2 * np.pi * rate * time))


def _coloured(noise: NDArray[np.float64], colour: str) -> NDArray[np.float64]:
    """White noise, its running sum, or the running sum of that, the latter two with a peak of 1."""
    if colour == "white":
        return noise
    for _ in range(1 if colour == "pink" else 2):
        noise = np.cumsum(noise, -1)
    return noise / np.maximum(np.abs(noise).max(-1, keepdims=True), 1e-12)


def _gated(x: NDArray[np.float64], threshold: NDArray[np.float64] | float) -> NDArray[np.float64]:
    return np.where(np.abs(x) < threshold, 0.0, x)


def _butterworth(x: NDArray[np.float64], order: int, frequency: float, kind: str) -> NDArray[np.float64]:
    from scipy.signal import butter, filtfilt

    return filtfilt(*butter(order, frequency / (RATE / 2), kind), x)


def _as_signals(x: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.atleast_2d(x))


def _notched_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    spectrum, frequencies = np.fft.rfft(x), np.fft.rfftfreq(len(x), 1 / RATE)
    for centre in (500, 1000, 2000, 4000, 8000):
        yield np.fft.irfft(np.where(np.abs(frequencies - centre) < 50, 0, spectrum), len(x))


def _combed_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    yield from (_ahead(x, *comb) for comb in _COMBS)


def _swung_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    time = np.arange(len(x)) / RATE
    yield from (x * _swing(rate, depth, time) for rate, depth in zip(_RATES, (0.3, 0.5, 0.8, 1.0), strict=True))


def _noisy_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    level = np.sqrt(np.mean(x**2))
    for snr, colour in _NOISES:
        yield x + level * 10 ** (-snr / 20) * _coloured(rng.standard_normal(len(x)), colour)


def _hummed_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    time = np.arange(len(x)) / RATE
    for frequency, gain in zip(_TONES, (0.02, 0.03, 0.05, 0.08), strict=True):
        yield x + gain * np.sin(2 * np.pi * frequency * time)


def _reverberant_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    from scipy.signal import oaconvolve

    for tail, gain in ((5, 0.3), (10, 0.5), (15, 0.7), (20, 0.9)):
        response = gain * np.exp(-np.linspace(0, 3, RATE * tail // 1000))
        yield oaconvolve(x, response)[: len(x)]


def _gated_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    yield from (_gated(x, threshold) for threshold in (0.005, 0.01, 0.02, 0.04))


def _shifted_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    n_fft = min(2048, len(x) // 2)
    yield from (pitch_shift(_as_signals(x), semitones, n_fft).numpy() for semitones in _SHIFTS)


def _low_passed_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    yield from (_butterworth(x, 4, frequency, "low") for frequency in (2000, 3000, 4000, 6000))


def _high_passed_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    yield from (_butterworth(x, 4, frequency, "high") for frequency in (100, 300, 500, 800))


def _echoing_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    for delay, gain in ((5, 0.3), (10, 0.5), (15, 0.7)):
        out = x.copy()
        out[RATE * delay // 1000 :] += gain * x[: -RATE * delay // 1000]
        yield out


def _clipped_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    yield from (np.clip(x, -threshold, threshold) for threshold in (0.3, 0.5, 0.7))


def _wavering_signal(x: NDArray[np.float64], rng: np.random.Generator) -> _Rows:
    time, n_fft = np.arange(len(x)) / RATE, min(2048, len(x) // 2)
    for rate, depth in ((3, 0.001), (5, 0.002), (7, 0.003)):
        speed = 1 + float(np.sin(2 * np.pi * rate * time).mean()) * depth
        yield fixed_length(time_stretch(_as_signals(x), speed, n_fft), len(x)).numpy()


class _Frames:
    """A signal's 20-ms frames, their levels, and what its whole spectrum says about where to filter."""

    def __init__(self, x: NDArray[np.float64]):
        self.x = x.reshape(-1, FRAME)
        magnitude = np.abs(self.x)
        self.peak, self.rms, self.high = (
            np.maximum(level, _LEAST)[:, None]
            for level in (
                magnitude.max(1),
                np.sqrt(np.mean(self.x**2, 1)),
                np.percentile(magnitude, 95, axis=1),
            )
        )
        spectrum = np.abs(np.fft.rfft(x))
        frequencies = np.asarray(np.fft.rfftfreq(len(x), 1 / RATE), np.float64)
        self.notches = self._peaks(spectrum, frequencies)
        power = spectrum**2
        self.low_passes = self._quantiles(power, frequencies, (0.50, 0.70, 0.85, 0.95), 0.99 * RATE / 2)
        high_passes = self._quantiles(power[::-1], frequencies[::-1], (0.05, 0.15, 0.30, 0.50), RATE / 2)
        self.high_passes = [frequency for frequency in high_passes if frequency > 20]

    @staticmethod
    def _peaks(spectrum: NDArray[np.float64], frequencies: NDArray[np.float64]) -> list[float]:
        """At most 20 of the 60 strongest bins in 80 Hz to 0.45 of the rate, more than 300 Hz apart."""
        inside = (frequencies > 80) & (frequencies < 0.45 * RATE)
        strongest = np.argsort(spectrum[inside])[-60:]
        strongest = strongest[np.argsort(spectrum[inside][strongest])[::-1]]
        found: list[float] = []
        for frequency in frequencies[inside][strongest].tolist():
            if len(found) < 20 and all(abs(frequency - other) > 300 for other in found):
                found.append(frequency)
        return found

    @staticmethod
    def _quantiles(
        power: NDArray[np.float64], frequencies: NDArray[np.float64], shares: tuple[float, ...], limit: float
    ) -> list[int]:
        """Where the running sum of the power reaches each share, to 100 Hz; without repeats."""
        reached = np.searchsorted(np.cumsum(power), np.multiply(shares, power.sum()))
        reached = np.minimum(reached, len(frequencies) - 1)
        rounded = {round(frequencies[index] / 100) * 100 for index in reached}
        return sorted(frequency for frequency in rounded if 0 < frequency < limit)


def _notched_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    spectrum, bins = np.fft.rfft(frames.x), np.fft.rfftfreq(FRAME, 1 / RATE)
    for centre in frames.notches:
        yield np.fft.irfft(np.where(np.abs(bins - centre) < 60, 0, spectrum), FRAME)


def _combed_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    yield from (_ahead(frames.x, *comb) for comb in _COMBS)


def _swung_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    centre = (np.arange(len(frames.x))[:, None] + 0.5) * FRAME / RATE
    yield from (frames.x * _swing(rate, 1.0, centre) for rate in _RATES)


def _noisy_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    from scipy.signal import butter, lfilter

    band = butter(5, [20 / (RATE / 2), 0.9], "band")
    level = np.sqrt(np.mean(frames.x**2, 1, keepdims=True))
    for snr, colour in _NOISES:
        noise = lfilter(*band, _coloured(rng.standard_normal(frames.x.shape), colour))
        wanted = level * 10 ** (-min(snr, 15) / 20)
        yield frames.x + noise * wanted / (np.sqrt(np.mean(noise**2, 1, keepdims=True)) + 1e-12)


def _hummed_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    time = np.arange(FRAME) / RATE
    for frequency, gain in zip(_TONES, (0.4, 0.6, 0.8, 1.0), strict=True):
        yield frames.x + gain * frames.rms * np.sin(2 * np.pi * frequency * time)


def _gated_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    yield from (_gated(frames.x, share * frames.high) for share in (0.05, 0.10, 0.20, 0.40))


def _shifted_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    yield from (pitch_shift(_as_signals(frames.x), semitones, FRAME // 2).numpy() for semitones in _SHIFTS)


def _low_passed_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    yield from (_butterworth(frames.x, 6, frequency, "low") for frequency in frames.low_passes)


def _high_passed_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    yield from (_butterworth(frames.x, 6, frequency, "high") for frequency in frames.high_passes)


def _clipped_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    for share in (0.70, 0.50, 0.30):
        yield np.clip(frames.x, -share * frames.high, share * frames.high)


def _wavering_frames(frames: _Frames, rng: np.random.Generator) -> _Rows:
    for scale in (1.0, 1.3, 1.6):
        depth = np.clip(0.03 * scale * frames.rms / frames.peak, 0.01, 0.05)[:, 0]
        speed = torch.from_numpy(1 + depth)
        yield fixed_length(time_stretch(_as_signals(frames.x), speed, FRAME // 2), FRAME).numpy()


_SEPARATION: dict[str, Callable[[NDArray[np.float64], np.random.Generator], _Rows]] = {
    "notch": _notched_signal,
    "comb": _combed_signal,
    "tremolo": _swung_signal,
    "noise": _noisy_signal,
    "harmonic": _hummed_signal,
    "reverb": _reverberant_signal,
    "noisegate": _gated_signal,
    "pitch_shift": _shifted_signal,
    "lowpass": _low_passed_signal,
    "highpass": _high_passed_signal,
    "echo": _echoing_signal,
    "clipping": _clipped_signal,
    "vibrato": _wavering_signal,
}
_MATCH: dict[str, Callable[[_Frames, np.random.Generator], _Rows]] = {
    "notch": _notched_frames,
    "comb": _combed_frames,
    "tremolo": _swung_frames,
    "noise": _noisy_frames,
    "harmonic": _hummed_frames,
    "noisegate": _gated_frames,
    "pitch_shift": _shifted_frames,
    "lowpass": _low_passed_frames,
    "highpass": _high_passed_frames,
    "clipping": _clipped_frames,
    "vibrato": _wavering_frames,
}
SEPARATION_KINDS, MATCH_KINDS = tuple(_SEPARATION), tuple(_MATCH)
