"""ConvNeXt blocks along one axis (arXiv 2201.03545): a depthwise convolution, a norm and an inverted bottleneck."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.layers.inference import only_computes


class ConvNeXtBlock(nn.Module):
    """``x + scale * down(gelu(up(norm(depthwise(x)))))``, channels last, so that all but the first is a product.

    Args:
        dim: channels.
        expand: the bottleneck has ``expand * dim`` channels.
        kernel: positions that the depthwise convolution sees, odd; zeros lie beyond the ends.
        scale: of the branch at the start, one learned number a channel.

    >>> ConvNeXtBlock(8)(torch.randn(2, 20, 8)).shape
    torch.Size([2, 20, 8])
    """

    def __init__(self, dim: int, *, expand: int = 3, kernel: int = 7, scale: float = 1e-6):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.up, self.down = nn.Linear(dim, expand * dim), nn.Linear(expand * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        y = self._convolve_in_place(x) if only_computes(self, x) else self.depthwise(x.mT).mT
        return torch.addcmul(x, self.scale, self.down(F.gelu(self.up(self.norm(y)))))

    def _convolve_in_place(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        """The depthwise convolution as a sum of shifted copies: channels stay last, nothing is transposed or kept."""
        weight, bias = self.depthwise.weight[:, 0].t().contiguous(), self.depthwise.bias
        assert bias is not None
        reach, length = len(weight) // 2, x.shape[1]
        y = torch.addcmul(bias.to(x.dtype), x, weight[reach])
        for offset in (o for o in range(-reach, reach + 1) if o and abs(o) < length):
            here = slice(max(0, -offset), length - max(0, offset))
            there = slice(max(0, offset), length + min(0, offset))
            y[:, here].addcmul_(x[:, there], weight[reach + offset])
        return y
