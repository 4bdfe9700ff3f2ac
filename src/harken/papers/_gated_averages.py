"""What the claim of LongVQ compares it with: its gated unit without attention, and with linear attention."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention._damped_average import DampedAverage
from harken.attention.linear import linear_attention
from harken.attention.longvq import LongVqAttention


class AverageOnly(nn.Module):
    """The unit without attention: ``sigmoid(u) silu(h)``, both from the moving average; causal."""

    def __init__(self, dim: int, *, memory_size: int = 16):
        super().__init__()
        self.memory = DampedAverage(dim, memory_size)
        self.memory_proj = nn.Linear(dim, 2 * dim)
        nn.init.normal_(self.memory_proj.weight, std=0.02)
        nn.init.zeros_(self.memory_proj.bias)

    def forward(self, x: Tensor, *, mask: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        gate, h = self.memory_proj(self.memory(x)[0]).chunk(2, -1)
        return gate.sigmoid() * F.silu(h)


class LinearisedAverage(LongVqAttention):
    """The unit with linear attention (``elu + 1``) over all keys in place of softmax over codewords."""

    def _mix(self, parts: Any, mask: Tensor | None) -> Tensor:
        return linear_attention(parts.queries, parts.quantized, parts.values, causal=self.causal, mask=mask)
