"""Stochastic depth: in training, a branch of a residual block is left out now and then (arXiv 1603.09382)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn


class DropPath(nn.Module):
    """Zero whole rows of a batch with a probability, and scale the others so that the mean stays.

    >>> import torch
    >>> DropPath(0.5).eval()(torch.ones(2, 3)).sum()
    tensor(6.)
    """

    def __init__(self, probability: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(probability)

    def forward(self, x: Float[Tensor, "batch *rest"]) -> Float[Tensor, "batch *rest"]:
        if not self.training or self.dropout.p == 0:
            return x
        return x * self.dropout(x.new_ones(x.shape[0], *(1,) * (x.ndim - 1)))


def drop_rates(largest: float, layers: int) -> list[float]:
    """Probabilities that rise evenly from 0 at the first layer to ``largest`` at the last.

    >>> drop_rates(0.2, 3)
    [0.0, 0.1, 0.2]
    """
    return [largest * i / max(1, layers - 1) for i in range(layers)]
