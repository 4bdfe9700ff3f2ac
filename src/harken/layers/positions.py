"""Absolute positions, added to embeddings."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def sinusoidal_positions(
    index: Int[Tensor, "*batch time"], dim: int, *, longest: float = 10_000.0
) -> Float[Tensor, "*batch time dim"]:
    """``sin(i w_k)`` in the first half of the channels, ``cos(i w_k)`` in the second, ``w_k = longest^(-2k/dim)``.

    Any index has a position, so a stream has no end (Vaswani et al., arXiv 1706.03762, section 3.5).

    >>> sinusoidal_positions(torch.arange(3), 4)[0]
    tensor([0., 0., 1., 1.])
    """
    rates = torch.exp(torch.arange((dim + 1) // 2, device=index.device) * (-2 * math.log(longest) / dim))
    angles = index.unsqueeze(-1).to(torch.float32) * rates
    return torch.cat((angles.sin(), angles.cos()), -1)[..., :dim]
