"""Numbers that describe an attention map: spread, concentration, agreement of heads, sink and locality."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_NEAREST = 4


class AttentionIndicators(NamedTuple):
    """What :func:`attention_indicators` measures, ``(batch, heads)`` unless said otherwise.

    ``entropy``: ``-sum a log a`` over the whole map, in nats; ``concentration``: its Frobenius norm;
    ``head_diversity``, ``(batch,)``: the mean over pairs of the standard deviation across heads; ``sink``: what the
    first key gets, a mean over queries; ``local_focus``, ``(batch, heads, 4)``: what the keys 0, 1, 2 and 3 positions
    back get.
    """

    entropy: Tensor
    concentration: Tensor
    head_diversity: Tensor
    sink: Tensor
    local_focus: Tensor


def attention_indicators(weights: Float[Tensor, "batch heads time time"]) -> AttentionIndicators:
    """The pattern indicators of the study that takes attention apart (arXiv 2510.11602), of causal maps; unscaled.

    One head alone has a diversity of 0, and a distance that the map is too short for a focus of 0.

    >>> uniform = torch.ones(1, 2, 4, 4).tril() / torch.arange(1, 5)[:, None]
    >>> attention_indicators(uniform).local_focus[0, 0]
    tensor([0.5208, 0.3611, 0.2917, 0.2500])
    """
    weights = weights.tril()
    heads, time = weights.shape[1:3]
    focus = [weights.diagonal(-back, -2, -1) for back in range(_NEAREST)]
    apart = weights.std(1) if heads > 1 else torch.zeros_like(weights[:, 0])
    return AttentionIndicators(
        entropy=-torch.xlogy(weights, weights).sum((-2, -1)),
        concentration=torch.linalg.matrix_norm(weights),
        head_diversity=apart.sum((-2, -1)) * 2 / (time * (time + 1)),
        sink=weights[..., 0].mean(-1),
        local_focus=torch.stack([part.sum(-1) / max(1, part.shape[-1]) for part in focus], -1),
    )
