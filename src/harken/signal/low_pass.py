"""Low-pass of linear phase and no delay, a Kaiser-windowed sinc: short enough to know what a sample depends on."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError

_LONGEST = 2048  # taps on each side, whatever the transition: what is lower is cut less steeply


class LowPass(nn.Module):
    """Keep what lies below a cutoff: 60 dB down at the far side of a transition centred on it.

    Two complementary halves, ``low(x)`` and ``x - low(x)``, sum to the signal: a cross-over.

    Args:
        cutoff: where half of the amplitude is left, Hz.
        sample_rate: of the signal, Hz.
        transition: its width, as a share of the cutoff.

    Shape: ``(batch, samples)`` to the same; zeros lie beyond the ends.

    Raises:
        InputError: the cutoff does not lie between 0 and half the rate.

    >>> x = torch.sin(torch.arange(1600) * 2 * torch.pi * 3000 / 16000)[None]
    >>> bool(LowPass(2000.0, 16000)(x)[:, 400:-400].abs().max() < 2e-3)
    True
    """

    taps: Tensor

    def __init__(self, cutoff: float, sample_rate: int, transition: float = 0.12):
        super().__init__()
        if not 0 < cutoff < sample_rate / 2:
            raise InputError(f"expected a cutoff between 0 and {sample_rate / 2:g} Hz, got {cutoff:g}")
        attenuation = 60.0
        width = 2 * math.pi * transition * cutoff / sample_rate
        # Kaiser's rules: the length for an attenuation and a width, the shape for an attenuation
        self.context = min(_LONGEST, math.ceil((attenuation - 8) / (2.285 * width) / 2))
        position = torch.arange(-self.context, self.context + 1, dtype=torch.float64)
        window = torch.kaiser_window(
            2 * self.context + 1, periodic=False, beta=0.1102 * (attenuation - 8.7), dtype=torch.float64
        )
        taps = window * torch.sinc(2 * cutoff / sample_rate * position)
        self.register_buffer("taps", (taps / taps.sum()).float(), persistent=False)

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """What lies below."""
        return F.conv1d(waveform[:, None], self.taps.to(waveform.dtype)[None, None], padding=self.context)[:, 0]
