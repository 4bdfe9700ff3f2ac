"""A softmax over the past with one score per key, whoever asks: a running weighted mean, in chunks of chunks."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, precise
from harken.attention._chunked import SEGMENT, checked_chunk_size, joined, pieces, whole_chunks
from harken.attention.deconstructed import StandardAttention, Variant
from harken.attention.softmax import allowed_pairs

# the score of what is not there: finite, so that a row of nothing else has a gradient
_NOTHING = -1e30


class CumulativeState(NamedTuple):
    """A stream's running mean and the weight it stands for, in float32 at least.

    Shape:
        - log_total: ``(batch, heads)``, the logarithm of the sum of ``exp(score)``
        - mean: ``(batch, heads, head_dim)``, the mean of the values weighted by ``exp(score)``
    """

    log_total: Tensor
    mean: Tensor


class NonApproximateAttention(StandardAttention):
    """A softmax over one score per key, ``s_j = silu(q_j) k_j / sqrt(head_dim)``, whoever asks.

    Causal, ``y_i = sum_{j <= i} exp(s_j) v_j / sum_{j <= i} exp(s_j)`` (equations 7 and 8 of the paper), a running mean
    whose state is one vector and one number a head. Without ``causal`` every position gets the same mean. The scores
    of deep models grow beyond 1000 without ``qk_norm``: that this trains badly is a finding of the study.

    Args:
        chunk_size: positions that meet directly; changes speed and memory, not the result.
        **options: of :class:`StandardAttention`; ``rotary_base`` would turn both vectors of a product alike, and is
            left out.
    """

    variant: Variant = "non-approximate"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, constant_state=True)
    state_type: ClassVar[type[tuple]] = CumulativeState

    def __init__(self, dim: int, heads: int, *, chunk_size: int = 16, **options: Any):
        super().__init__(dim, heads, **{**options, "rotary_base": None})
        self.chunk_size = checked_chunk_size(chunk_size)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        scores = position_scores(q, k)
        return cumulative_attention(scores, v, causal=self.causal, mask=mask, chunk_size=self.chunk_size)[0]

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        scores = position_scores(q, k).unsqueeze(-2).expand(-1, -1, k.shape[2], -1)
        allowed = allowed_pairs(q, k, causal=self.causal, mask=mask)
        if allowed is None:
            return scores.softmax(-1).to(q.dtype)
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
        return weights.masked_fill(~allowed, 0.0).to(q.dtype)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: CumulativeState) -> tuple[Tensor, CumulativeState]:
        return cumulative_attention(position_scores(q, k), v, causal=True, state=state, chunk_size=self.chunk_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        sequences, d = batch * self.heads, self.head_dim
        flops = sequences * cumulative_flops(time, d, self.chunk_size, causal=self.causal)
        state = max(4, self._item_size) * sequences * (d + 1) if self.causal else 0
        return Cost(flops=flops, bytes=4 * batch * time * self.dim * self._item_size, state=state)

    def _empty(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> CumulativeState:
        dtype = torch.promote_types(dtype, torch.float32)
        return empty_mean(batch_size, self.heads, self.head_dim, device=device, dtype=dtype)

    def _position(self, state: CumulativeState) -> int:
        return 0


def position_scores(
    q: Float[Tensor, "batch heads time head_dim"], k: Float[Tensor, "batch heads time head_dim"]
) -> Float[Tensor, "batch heads time"]:
    """``silu(q_j) k_j / sqrt(head_dim)``, query and key of the same position; in float32 at least."""
    scores = [(F.silu(precise(q_part)) * precise(k_part)).sum(-1) for _, q_part, k_part in pieces(SEGMENT, q, k)]
    return torch.cat(scores, -1) * q.shape[-1] ** -0.5


def empty_mean(batch: int, heads: int, width: int, *, device: torch.device, dtype: torch.dtype) -> CumulativeState:
    """The state before the first position."""
    mean = torch.zeros(batch, heads, width, device=device, dtype=dtype)
    return CumulativeState(torch.full_like(mean[..., 0], _NOTHING), mean)


def cumulative_attention(
    scores: Float[Tensor, "batch heads keys"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    state: CumulativeState | None = None,
    chunk_size: int = 16,
) -> tuple[Float[Tensor, "batch heads keys value_dim"], CumulativeState]:
    """``sum_j exp(s_j) v_j / sum_j exp(s_j)``, over all ``j`` or, when causal, over those up to each position.

    Linear in length: a chunk's rows are softmax rows over its own scores and one more, that of all before it; what
    there is before each chunk is the same problem on the chunks' totals and means. No exponent is ever positive.

    >>> v = torch.arange(4.0).view(1, 1, 4, 1)
    >>> cumulative_attention(torch.zeros(1, 1, 4), v, causal=True)[0].flatten()
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """
    s, values = precise(scores), precise(v)
    if mask is not None:
        s = s.masked_fill(~mask[:, None], _NOTHING)
    if not causal:
        mean = s.softmax(-1).unsqueeze(-2) @ values
        return mean.to(v.dtype).expand_as(v), CumulativeState(s.logsumexp(-1), mean.squeeze(-2))
    if state is None:
        state = empty_mean(s.shape[0], s.shape[1], v.shape[-1], device=s.device, dtype=s.dtype)
    parts = []
    for _, s_part, v_part in pieces(whole_chunks(SEGMENT, chunk_size), s, values):
        totals, mixed = _running_mean(s_part, v_part, *state, chunk_size)
        state = CumulativeState(totals[:, :, -1].clone(), mixed[:, :, -1].clone())
        parts.append(mixed.to(v.dtype))
    return joined(parts), state


def _running_mean(s: Tensor, values: Tensor, before: Tensor, mean_before: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The logarithm of the total weight and the mean at every position, given those before the first one."""
    time = s.shape[-1]
    if time <= size:
        s = torch.cat((before.unsqueeze(-1), s), -1)
        future = torch.ones(time, time + 1, dtype=torch.bool, device=s.device).triu_(2)
        rows = s.unsqueeze(-2).masked_fill(future, -torch.inf)
        totals = rows.logsumexp(-1)
        weights = (rows - totals.unsqueeze(-1)).exp()
        return totals, weights @ torch.cat((mean_before.unsqueeze(-2), values), -2)
    chunks = -(-time // size)
    s = F.pad(s, (0, chunks * size - time), value=_NOTHING).unflatten(-1, (chunks, size))
    values = F.pad(values, (0, 0, 0, chunks * size - time)).unflatten(-2, (chunks, size))
    means = (s.softmax(-1).unsqueeze(-2) @ values).squeeze(-2)
    after, means = _running_mean(s.logsumexp(-1), means, before, mean_before, size)
    before = torch.cat((before.unsqueeze(-1), after[..., :-1]), -1)
    mean_before = torch.cat((mean_before.unsqueeze(-2), means[..., :-1, :]), -2)
    totals, mixed = _running_mean(s, values, before, mean_before, size)
    return totals.flatten(-2)[..., :time], mixed.flatten(-3, -2)[..., :time, :]


def cumulative_flops(time: int, width: int, chunk_size: int, *, causal: bool) -> int:
    """What :func:`cumulative_attention` costs for one head of one sequence."""
    if not causal:
        return 2 * time * width
    segment = whole_chunks(SEGMENT, chunk_size)
    if time > segment:
        whole, rest = divmod(time, segment)
        one, last = (cumulative_flops(size, width, chunk_size, causal=True) for size in (segment, rest))
        return whole * one + last
    if time <= chunk_size:
        return 2 * time * (time + 1) * width
    chunks = -(-time // chunk_size)
    own = 2 * chunks * chunk_size * (chunk_size + 2) * width  # the rows, and the mean of each chunk
    return own + cumulative_flops(chunks, width, chunk_size, causal=True)
