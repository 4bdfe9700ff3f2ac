"""Differentiable change of rate by a windowed sinc, computed block by block as matrix products."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError

_BLOCK = 64  # samples that a row of the product makes, at least: longer rows waste products, shorter ones overhead


class SincResampler(nn.Module):
    """Change the rate by ``target / source``, with the signal's ends held beyond its ends.

    Sample ``j`` of phase ``p`` is ``sum_i x[i] h((i - j source) / source - p / target)``, with
    ``h(t) = sinc(c t) cos²(pi c t / (2 zeros))`` over ``|c t| <= zeros``, ``c = rolloff min(source, target)``, each
    phase's taps scaled to sum to one (arXiv 1911.13254 resamples so, with ``source, target = 1, 2`` and back).

    Neighbouring samples share nearly all their inputs, so the taps of a block of outputs form a banded matrix, and the
    signal, cut into blocks without a copy, meets it in products of matrices rather than in a one-channel convolution.

    Args:
        source, target: the rates, or anything in their ratio.
        zeros: zero crossings of the sinc on each side.
        rolloff: the cutoff, relative to the lower half rate.

    Shape: ``(..., samples)`` to ``(..., samples * target // source)``, rates in lowest terms.

    Raises:
        InputError: rates that are not positive, or whose ratio in lowest terms has more than 1000 phases.

    >>> x = torch.randn(2, 1, 100)
    >>> SincResampler(1, 2)(x).shape
    torch.Size([2, 1, 200])
    >>> slow = torch.sin(torch.arange(1000) / 20)
    >>> bool((SincResampler(2, 1)(SincResampler(1, 2)(slow)) - slow)[50:-50].abs().max() < 1e-3)
    True
    """

    matrix: Tensor

    def __init__(self, source: int, target: int, zeros: int = 24, rolloff: float = 0.945):
        super().__init__()
        if min(source, target) < 1:
            raise InputError(f"expected positive rates, got {source} and {target}")
        shared = math.gcd(source, target)
        self.source, self.target = source // shared, target // shared
        if max(self.source, self.target) > 1000:
            raise InputError(f"{source} to {target} has {self.target} phases: resample with soxr instead")
        cutoff = min(self.source, self.target) * rolloff
        self.reach = math.ceil(zeros * self.source / cutoff)
        taps = self._taps(cutoff, zeros)
        # a block makes ``steps`` samples of each phase; its inputs lie in a whole number of blocks
        self.steps = max(1, -(-_BLOCK // max(self.source, self.target)))
        self.hop = self.steps * self.source
        self.blocks = -(-(self.hop + taps.shape[1] - self.source) // self.hop)
        matrix = torch.zeros(self.blocks * self.hop, self.steps * self.target)
        for step in range(self.steps):
            first = step * self.source
            matrix[first : first + taps.shape[1], step * self.target : (step + 1) * self.target] = taps.T
        self.register_buffer("matrix", matrix, persistent=False)

    def _taps(self, cutoff: float, zeros: int) -> Float[Tensor, "phases taps"]:
        inputs = torch.arange(-self.reach, self.reach + self.source, dtype=torch.float64) / self.source
        phases = torch.arange(self.target, dtype=torch.float64)[:, None] / self.target
        position = ((inputs - phases) * cutoff).clamp(-zeros, zeros)
        taps = torch.sinc(position) * torch.cos(math.pi * position / (2 * zeros)).square()
        return (taps / taps.sum(1, keepdim=True)).float()

    def forward(self, waveform: Float[Tensor, "*batch samples"]) -> Float[Tensor, "*batch resampled"]:
        """The same sound at the other rate."""
        if self.source == self.target:
            return waveform
        batch, samples = waveform.shape[:-1], waveform.shape[-1]
        length = samples * self.target // self.source
        rows = -(-length // (self.steps * self.target))
        padded = (rows + self.blocks - 1) * self.hop
        x = waveform.reshape(-1, 1, samples)
        x = F.pad(x, (self.reach, max(0, padded - samples - self.reach)), mode="replicate")[..., :padded]
        x = x.reshape(len(x), rows + self.blocks - 1, self.hop)
        matrix = self.matrix.to(x.dtype)
        made = x[:, :rows] @ matrix[: self.hop]
        for block in range(1, self.blocks):
            made = made + x[:, block : block + rows] @ matrix[block * self.hop : (block + 1) * self.hop]
        return made.reshape(*batch, -1)[..., :length]

    def extra_repr(self) -> str:
        """The ratio."""
        return f"{self.source}:{self.target}"
