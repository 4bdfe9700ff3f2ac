"""Discrete wavelet transform with periodic padding, as one fixed linear map for a whole batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError, MissingExtraError

_DENSE = 512  # samples up to which one matrix product is faster than level after level
_STRETCH = 16  # values of each half that one product makes of a long signal
_LONGEST = 1 << 20


class WaveletTransform(nn.Module):
    """Signals of one length to all their wavelet coefficients, coarse to fine.

    Each level filters what the last one left of the low frequencies and keeps every second value,
    ``a[k] = sum_j low[j] x[2k + 1 - j]`` and ``d[k] = sum_j high[j] x[2k + 1 - j]`` with indices modulo the length:
    PyWavelets' mode ``"periodic"``, which keeps a few more values than samples (its ``"periodization"`` does not).
    All levels together are one linear map. Short signals are multiplied by its matrix at once; long ones, whose matrix
    is nearly empty, go level by level until they are short. Gradients flow through either.

    Args:
        samples: length of the signals.
        wavelet: ``"db1"`` (Haar) to ``"db20"``, else a name that PyWavelets knows.
        level: how often the low half is split; as often as the filter fits when None.

    Shape:
        - signal: ``(..., samples)``
        - coefficients: ``(..., coefficients)``, ``[a_n, d_n, ..., d_1]``, as many as ``sizes`` add up to

    Raises:
        InputError: an unknown wavelet, or a signal shorter than it.
        MissingExtraError: the wavelet's taps come from PyWavelets, which is not installed.

    >>> transform = WaveletTransform(64)
    >>> transform.sizes
    (14, 14, 21, 35)
    >>> transform(torch.randn(5, 3, 64)).shape
    torch.Size([5, 3, 84])
    """

    matrix: Tensor
    stretch: Tensor

    def __init__(self, samples: int, wavelet: str = "db4", *, level: int | None = None):
        super().__init__()
        low, high = filter_taps(wavelet)
        most = max_level(samples, len(low))
        self.samples, self.wavelet, self.level = samples, wavelet, most if level is None else level
        if not 1 <= self.level <= most:
            raise InputError(
                f"{samples} samples allow 1 to {most} levels of '{wavelet}', whose filters have {len(low)} taps; "
                f"got level={level}: take longer signals or a shorter wavelet"
            )
        if samples > _LONGEST:
            raise InputError(f"expected at most {_LONGEST:,} samples, got {samples:,}: cut the signal into segments")
        lengths = [samples]
        for _ in range(self.level):
            lengths.append((lengths[-1] + len(low) - 1) // 2)
        self.sizes = (lengths[-1], *reversed(lengths[1:]))
        taps = np.stack((low, high))
        # fixed by the arguments, so never part of saved weights
        self.split_levels = sum(length > _DENSE for length in lengths[:-1])
        rest = lengths[self.split_levels : -1]
        tail = transform_matrix(rest, taps) if rest else np.zeros((0, 0))
        self.register_buffer("matrix", torch.from_numpy(tail).float(), persistent=False)
        self.register_buffer("stretch", torch.from_numpy(_stretch_matrix(taps)).float(), persistent=False)
        self.taps = len(low)

    @property
    def coefficients(self) -> int:
        """How many there are in all."""
        return sum(self.sizes)

    def forward(self, signal: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch coefficients"]:
        """All coefficients of each signal."""
        if signal.shape[-1] != self.samples:
            raise InputError(f"expected signals of {self.samples} samples, got {signal.shape[-1]}")
        if not self.split_levels:
            return signal @ self.matrix.to(signal.dtype).T
        low = signal.reshape(-1, self.samples)
        details: list[Tensor] = []
        for _ in range(self.split_levels):
            low, detail = self._split(low)
            details.insert(0, detail)
        if len(self.matrix):
            low = low @ self.matrix.to(low.dtype).T
        return torch.cat((low, *details), -1).view(*signal.shape[:-1], self.coefficients)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low and high half of one level: a filter is many short stretches times one small matrix."""
        stretch = self.stretch.to(x.dtype)
        width, kept = stretch.shape[1], (x.shape[-1] + self.taps - 1) // 2
        count = -(-kept // _STRETCH)
        needed = 2 * _STRETCH * (count - 1) + width
        # the first filter ends at sample 1, the last begins before the end
        first = torch.arange(2 - self.taps, 2 - self.taps + needed, device=x.device) % x.shape[-1]
        windows = x.index_select(-1, first).unfold(-1, width, 2 * _STRETCH)
        # as one tall matrix: torch would multiply the overlapping view signal by signal
        parts = (windows.reshape(-1, width) @ stretch.T).view(len(x), count, 2, _STRETCH)
        low, high = parts.unbind(-2)
        return low.flatten(1)[:, :kept], high.flatten(1)[:, :kept]

    def extra_repr(self) -> str:
        """What it transforms, and how far."""
        return f"samples={self.samples}, wavelet={self.wavelet!r}, level={self.level}"


def max_level(samples: int, taps: int) -> int:
    """How often a signal can be split before it is shorter than the filter, ``floor(log2(samples / (taps - 1)))``.

    >>> max_level(2560, 8), max_level(64, 8), max_level(7, 8)
    (8, 3, 0)
    """
    return 0 if samples < taps - 1 or taps < 2 else math.floor(math.log2(samples / (taps - 1)))


@lru_cache(maxsize=64)
def filter_taps(wavelet: str = "db4") -> tuple[Float[np.ndarray, " taps"], Float[np.ndarray, " taps"]]:
    """The low-pass and high-pass filters that take a signal apart.

    Daubechies' are computed: of all filters with ``n`` zeros at half the rate and ``2n`` taps that keep energy, the
    one whose other zeros lie inside the unit circle. The high-pass is its mirror, ``high[k] = (-1)^(k+1) low[-1-k]``.

    Raises:
        InputError: there is no discrete wavelet of that name.
        MissingExtraError: the taps come from PyWavelets, which is not installed.

    >>> low, high = filter_taps("db1")
    >>> (2**0.5 * low).round(6).tolist(), (2**0.5 * high).round(6).tolist()
    ([1.0, 1.0], [-1.0, 1.0])
    """
    number = wavelet.removeprefix("db") if wavelet != "haar" else "1"
    if wavelet == "haar" or (wavelet.startswith("db") and number.isdigit() and 1 <= int(number) <= 20):
        low = _daubechies(int(number))
        high = low[::-1] * (-1.0) ** (np.arange(len(low)) + 1)
        return low, high
    try:
        import pywt
    except ImportError:
        raise MissingExtraError("PyWavelets", extra="brain") from None
    if wavelet not in pywt.wavelist(kind="discrete"):
        raise InputError(
            f"no discrete wavelet named '{wavelet}': db1 to db20, or one of pywt.wavelist(kind='discrete')"
        )
    found = pywt.Wavelet(wavelet)
    return np.array(found.dec_lo), np.array(found.dec_hi)


def transform_matrix(
    lengths: Sequence[int], filters: Float[np.ndarray, "2 taps"]
) -> Float[np.ndarray, "coefficients samples"]:
    """The matrix of the whole transform, for levels whose inputs have these lengths."""
    low = np.eye(lengths[0])
    rows: list[np.ndarray] = []
    for length in lengths:
        split = _level_matrix(length, filters) @ low
        low, detail = split[: len(split) // 2], split[len(split) // 2 :]
        rows.insert(0, detail)
    return np.concatenate([low, *rows])


def _level_matrix(length: int, filters: np.ndarray) -> np.ndarray:
    taps = filters.shape[1]
    kept = np.arange((length + taps - 1) // 2)
    made = np.zeros((2, len(kept), length))
    for tap in range(taps):  # a filter longer than the signal meets a sample more than once
        made[:, kept, (2 * kept + 1 - tap) % length] += filters[:, tap, None]
    return made.reshape(-1, length)


def _stretch_matrix(filters: np.ndarray) -> np.ndarray:
    """``_STRETCH`` values of the low and as many of the high half, of the samples under their filters."""
    taps = filters.shape[1]
    kept = np.arange(_STRETCH)
    made = np.zeros((2, _STRETCH, 2 * _STRETCH + taps - 2))
    for tap in range(taps):
        made[:, kept, 2 * kept + taps - 1 - tap] = filters[:, tap, None]
    return made.reshape(2 * _STRETCH, -1)


def _daubechies(order: int) -> np.ndarray:
    polynomial = [math.comb(order - 1 + k, k) for k in range(order)]
    half = 1 - 2 * np.roots(polynomial[::-1])
    root = np.sqrt(half * half - 1 + 0j)
    inside = np.where(np.abs(half + root) < 1, half + root, half - root)
    taps = np.real(np.poly(np.concatenate((inside, -np.ones(order)))))
    return (taps * math.sqrt(2) / taps.sum())[::-1].copy()


def _reference(signal: np.ndarray, wavelet: str, level: int) -> np.ndarray:
    """One signal, one level, one coefficient at a time."""
    low_taps, high_taps = filter_taps(wavelet)
    low = signal
    details: list[np.ndarray] = []
    for _ in range(level):
        length, taps = len(low), len(low_taps)
        places = range((length + taps - 1) // 2)
        detail = [sum(high_taps[j] * low[(2 * k + 1 - j) % length] for j in range(taps)) for k in places]
        low = np.array([sum(low_taps[j] * low[(2 * k + 1 - j) % length] for j in range(taps)) for k in places])
        details.insert(0, np.array(detail))
    return np.concatenate([low, *details])
