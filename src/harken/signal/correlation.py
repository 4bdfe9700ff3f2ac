"""Pearson's correlation along a dimension, with gradients that stay finite where nothing varies."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def correlation(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], dim: int = -1) -> Tensor:
    """Pearson's along a dimension; 0 where one of the two is constant.

    >>> x = torch.tensor([1.0, 2.0, 4.0])
    >>> round(float(correlation(x, 3 - 2 * x)), 4), float(correlation(x, torch.ones(3)))
    (-1.0, 0.0)
    """
    a, b = a - a.mean(dim, keepdim=True), b - b.mean(dim, keepdim=True)
    # under the root before it is taken: the gradient of a root at 0 is infinite
    power = a.square().sum(dim) * b.square().sum(dim)
    return torch.where(power > 0, (a * b).sum(dim) / power.clamp_min(torch.finfo(power.dtype).tiny).sqrt(), 0.0)
