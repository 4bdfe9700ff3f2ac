"""Mel filters on Slaney's scale, as librosa makes them: triangles of equal area."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

_LINEAR = 200 / 3  # Hz a mel below 1 kHz
_LOG_STEP = math.log(6.4) / 27  # above it


def mel_filters(
    bands: int, n_fft: int, sample_rate: int, low: float = 0.0, high: float | None = None
) -> Float[Tensor, "bands bins"]:
    """Triangular filters on a spectrum of ``n_fft // 2 + 1`` bins, evenly spaced in mels (linear below 1 kHz).

    Each has the area that makes noise of one density equal in all bands (``norm="slaney"``).

    Args:
        bands: how many.
        n_fft, sample_rate: of the spectrum.
        low, high: Hz of the outermost edges; half the rate when None.

    Raises:
        InputError: no band, or edges that are not in order.

    >>> mel_filters(40, 400, 16000).shape
    torch.Size([40, 201])
    """
    high = sample_rate / 2 if high is None else high
    if bands < 1 or not 0 <= low < high <= sample_rate / 2:
        raise InputError(f"expected a band or more and 0 <= low < high <= half the rate, got {bands}, {low}, {high}")
    edges = _to_hertz(torch.linspace(_to_mel(low), _to_mel(high), bands + 2, dtype=torch.float64))
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    widths = edges.diff()
    slopes = edges[:, None] - bins
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    area = 2 / (edges[2:] - edges[:-2])
    return (torch.minimum(rising, falling).clamp_min(0) * area[:, None]).float()


def _to_mel(hertz: float) -> float:
    return hertz / _LINEAR if hertz < 1000 else 15 + math.log(hertz / 1000) / _LOG_STEP


def _to_hertz(mel: Tensor) -> Tensor:
    return torch.where(mel < 15, mel * _LINEAR, 1000 * torch.exp(_LOG_STEP * (mel - 15)))
