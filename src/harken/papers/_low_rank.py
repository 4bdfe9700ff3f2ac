"""Low-rank adaptation of linear layers (LoRA, arXiv 2106.09685), as far as the claim of SinkLoRA needs it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

RANK, ALPHA = 8, 16


class LowRank(nn.Module):
    """``W + alpha / rank * B A``, one such pair for each of the ``parts`` matrices stacked in ``W``; ``B`` starts at 0.

    >>> LowRank(torch.ones(6, 4), parts=3)(torch.ones(6, 4)).shape
    torch.Size([6, 4])
    """

    def __init__(self, weight: Float[Tensor, "rows columns"], parts: int):
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.empty(parts, RANK, columns).uniform_(-(columns**-0.5), columns**-0.5))
        self.up = nn.Parameter(torch.zeros(parts, rows // parts, RANK))

    def forward(self, weight: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
        """The weight that the layer uses."""
        return weight + ALPHA / RANK * (self.up @ self.down).flatten(0, 1)


def adapt(model: nn.Module) -> None:
    """Freeze a decoder but for its norms, its embedding, and low-rank updates of its attention's projections."""
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in name or "embedding" in name)
    for block in model.blocks:  # type: ignore[union-attr]
        for linear, parts in ((block.attention.in_proj, 3), (block.attention.out_proj, 1)):
            parametrize.register_parametrization(linear, "weight", LowRank(linear.weight, parts))
