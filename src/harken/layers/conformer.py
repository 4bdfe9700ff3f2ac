"""Conformer: attention and convolution between two half feed-forward layers (Gulati et al., arXiv 2005.08100)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class ConformerBlock(nn.Module):
    """Half feed-forward, attention, convolution module, half feed-forward, each added to its input; then a norm.

    Args:
        dim: channels.
        attention: the layer that mixes positions, ``(rows, length, dim)`` to the same.
        kernel_size: of the depthwise convolution, odd.
    """

    def __init__(self, dim: int, attention: nn.Module, kernel_size: int = 31):
        super().__init__()
        self.ffn1 = _macaron_ffn(dim)
        self.norm = nn.LayerNorm(dim)
        self.attention = attention
        self.conv = ConvolutionModule(dim, kernel_size)
        self.ffn2 = _macaron_ffn(dim)
        self.norm_out = nn.LayerNorm(dim)

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        x = x + 0.5 * self.ffn1(x)
        x = x + self.attention(self.norm(x))
        x = x + self.conv(x)
        x = x + 0.5 * self.ffn2(x)
        return self.norm_out(x)


def _macaron_ffn(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))


class ConvolutionModule(nn.Module):
    """Norm, pointwise up with a GLU, depthwise convolution, batch norm, SiLU, pointwise down."""

    def __init__(self, dim: int, kernel_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.depthwise = nn.Conv1d(2 * dim, 2 * dim, kernel_size, padding=kernel_size // 2, groups=2 * dim)
        self.batch_norm = nn.BatchNorm1d(2 * dim)
        self.down = nn.Linear(2 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.up(self.norm(x)), -1).transpose(1, 2)
        return self.down(F.silu(self.batch_norm(self.depthwise(x))).transpose(1, 2))
