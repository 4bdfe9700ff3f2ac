"""The spectra of a network that must answer within milliseconds: short windows, hardly overlapping, no centring."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ShortFilterbank(nn.Module):
    """Frames of ``hop_length + look_ahead`` samples under a root-Hann window, and their sum back to sound.

    Frame ``i`` sees samples ``[i hop, i hop + window)`` and, with the one before, settles ``[i hop, (i + 1) hop)``.
    The rows of a frame are the real parts of its bins, then the imaginary ones. With the same window on both sides the
    gain ripples unless windows overlap by half (between 2/3 and 4/3 for 192 samples every 128); the dual window
    ``w / sum of squares of the shifted windows`` reconstructs exactly.

    Args:
        hop_length, look_ahead: in samples; together the window, an even number.
        synthesis: ``"dual"``, or ``"authors"`` for the same window on both sides.

    >>> bank, x = ShortFilterbank(128, 64), torch.randn(1, 2, 1024 + 64)
    >>> made = bank.synthesise(bank.analyse(x), torch.zeros(1, 2, 194))
    >>> torch.allclose(made[..., 64:], x[..., 64:1024], atol=1e-5)  # the first 64 fade in: there was no frame before
    True
    """

    analysis: Tensor
    synthesis: Tensor

    def __init__(self, hop_length: int, look_ahead: int, synthesis: Literal["dual", "authors"] = "dual"):
        super().__init__()
        self.hop_length, self.window_length = hop_length, hop_length + look_ahead
        # made in double precision and on the CPU, whatever is the default: the same numbers everywhere
        size, kind = self.window_length, {"dtype": torch.float64, "device": "cpu"}
        time = torch.arange(size, **kind)  # type: ignore[call-overload]
        bins = torch.arange(size // 2 + 1, **kind)  # type: ignore[call-overload]
        angle = 2 * math.pi / size * (bins[:, None] * time)
        scale = torch.full_like(bins, 2 * math.sqrt(hop_length) / size)
        scale[[0, -1]] /= math.sqrt(2)
        basis = torch.cat((angle.cos() * scale[:, None], -angle.sin() * scale[:, None]))
        window = torch.hann_window(size, periodic=True, **kind).sqrt()  # type: ignore[call-overload]
        dual = window
        if synthesis == "dual":
            energy = F.pad(window.square(), (0, -size % hop_length)).view(-1, hop_length).sum(0)
            dual = window / energy.repeat(2)[:size] * (size / (2 * hop_length))
        self.register_buffer("analysis", (basis * window).float(), persistent=False)
        self.register_buffer("synthesis", (basis * dual).float(), persistent=False)

    def analyse(self, waveform: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch ears frames rows"]:
        """All frames that fit."""
        return waveform.unfold(-1, self.window_length, self.hop_length) @ self.analysis.mT

    def synthesise(
        self, rows: Float[Tensor, "batch ears frames rows"], before: Float[Tensor, "batch ears rows"]
    ) -> Float[Tensor, "batch ears samples"]:
        """``hop_length`` samples a frame; ``before`` is the frame before the first."""
        hop = self.hop_length
        settled = rows @ self.synthesis[:, :hop]
        earlier = torch.cat((before[:, :, None], rows[:, :, :-1]), 2) @ self.synthesis[:, hop:]
        return (settled + F.pad(earlier, (0, 2 * hop - self.window_length))).flatten(2)
