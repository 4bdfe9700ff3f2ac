"""The layers that HiLo's speed is measured against, as published (eager) or with PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Softmaxed(nn.Module):
    """Heads, the scaled product, and how it is computed: matrices written out, or fused."""

    def __init__(self, heads: int, *, fused: bool):
        super().__init__()
        self.heads, self.fused = heads, fused

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``(batch, heads, time, head_dim)`` each to ``(batch, time, heads * head_dim)``."""
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return mixed.transpose(1, 2).flatten(2)

    def parts(self, projected: Tensor, count: int) -> tuple[Tensor, ...]:
        """``(batch, time, count * heads * head_dim)`` as ``count`` times ``(batch, heads, time, head_dim)``."""
        return projected.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class MultiHead(nn.Module):
    """Full self-attention: the ``MSA`` of the paper's comparison."""

    def __init__(self, dim: int, heads: int, *, fused: bool):
        super().__init__()
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention = Softmaxed(heads, fused=fused)

    def forward(self, x: Float[Tensor, "batch time dim"], grid: tuple[int, int]) -> Float[Tensor, "batch time dim"]:
        return self.proj(self.attention(*self.attention.parts(self.qkv(x), 3)))


class Windows(nn.Module):
    """Self-attention inside windows that do not overlap: Swin's layer without shift and position bias."""

    def __init__(self, dim: int, heads: int, *, window: int, fused: bool):
        super().__init__()
        self.window = window
        self.inside = MultiHead(dim, heads, fused=fused)

    def forward(self, x: Float[Tensor, "batch time dim"], grid: tuple[int, int]) -> Float[Tensor, "batch time dim"]:
        (batch, _, dim), (height, width), side = x.shape, grid, self.window
        cut = x.view(batch, height // side, side, width // side, side, dim).transpose(2, 3)
        mixed = self.inside(cut.reshape(-1, side**2, dim), (side, side))
        return mixed.view(batch, height // side, width // side, side, side, dim).transpose(2, 3).reshape(x.shape)


class SpatialReduction(nn.Module):
    """Keys and values from a map that a strided convolution has made smaller: PVT's ``SRA``."""

    def __init__(self, dim: int, heads: int, *, ratio: int, fused: bool):
        super().__init__()
        self.q, self.kv, self.proj = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.reduce, self.norm = nn.Conv2d(dim, dim, ratio, stride=ratio), nn.LayerNorm(dim)
        self.attention = Softmaxed(heads, fused=fused)

    def forward(self, x: Float[Tensor, "batch time dim"], grid: tuple[int, int]) -> Float[Tensor, "batch time dim"]:
        reduced = self.reduce(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        k, v = self.attention.parts(self.kv(self.norm(reduced)), 2)
        (q,) = self.attention.parts(self.q(x), 1)
        return self.proj(self.attention(q, k, v))


class EagerHiLo(nn.Module):
    """HiLo the way it was published: three projections, windows cut out by copies, matrices written out.

    Parameters go by the authors' names, so that :meth:`harken.attention.hilo.HiLoAttention.from_authors` takes them.
    """

    def __init__(self, dim: int, heads: int, *, window: int, alpha: float):
        super().__init__()
        low, head_dim = int(heads * alpha), dim // heads
        self.window = window
        self.low_dim, self.high_dim = low * head_dim, (heads - low) * head_dim
        self.h_qkv, self.h_proj = nn.Linear(dim, 3 * self.high_dim), nn.Linear(self.high_dim, self.high_dim)
        self.l_q, self.l_kv = nn.Linear(dim, self.low_dim), nn.Linear(dim, 2 * self.low_dim)
        self.l_proj = nn.Linear(self.low_dim, self.low_dim)
        self.high, self.low = Softmaxed(heads - low, fused=False), Softmaxed(low, fused=False)

    def forward(self, x: Float[Tensor, "batch time dim"], grid: tuple[int, int]) -> Float[Tensor, "batch time dim"]:
        (batch, time, dim), (height, width), side = x.shape, grid, self.window
        cut = x.view(batch, height // side, side, width // side, side, dim).transpose(2, 3).reshape(-1, side**2, dim)
        high = self.high(*self.high.parts(self.h_qkv(cut), 3))
        high = high.view(batch, height // side, width // side, side, side, self.high_dim).transpose(2, 3)
        pooled = F.avg_pool2d(x.transpose(1, 2).unflatten(2, grid), side).flatten(2).transpose(1, 2)
        k, v = self.low.parts(self.l_kv(pooled), 2)
        (q,) = self.low.parts(self.l_q(x), 1)
        return torch.cat((self.h_proj(high.reshape(batch, time, -1)), self.l_proj(self.low(q, k, v))), -1)
