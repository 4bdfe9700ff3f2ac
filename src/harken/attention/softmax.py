"""Softmax attention, fused: every mechanism's yardstick (Vaswani et al., arXiv 1706.03762)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, KeyValueCache, ProjectedAttention


class SoftmaxAttention(ProjectedAttention):
    """Scaled dot-product attention, ``softmax(q k^T / sqrt(head_dim)) v``, through PyTorch's fused kernel.

    >>> layer = SoftmaxAttention(dim=16, heads=4, causal=True)
    >>> layer(torch.randn(2, 7, 16)).shape
    torch.Size([2, 7, 16])
    """

    name: ClassVar[str] = "softmax"
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed_pairs(q, k, causal=self.causal, mask=mask))

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> KeyValueCache:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        shape = (batch_size, self.heads, 0, self.head_dim)
        empty = torch.zeros(shape, device=device or weight.device, dtype=dtype or weight.dtype)
        return KeyValueCache(empty, empty)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache) -> tuple[Tensor, KeyValueCache]:
        state = KeyValueCache(torch.cat((state.keys, k), 2), torch.cat((state.values, v), 2))
        allowed = None if q.shape[2] == 1 else allowed_pairs(q, state.keys, causal=True)
        return F.scaled_dot_product_attention(q, state.keys, state.values, attn_mask=allowed), state

    def mix_cost(self, batch: int, time: int) -> Cost:
        # the fused kernel reads q, k, v and writes the mixed values; the n x n scores never leave the cache. It skips
        # about half of a causal pass, which the counter (and so we) does not credit.
        values = batch * time * self.dim
        state = 2 * values * self._item_size if self.causal else 0
        return Cost(flops=4 * values * time, bytes=4 * values * self._item_size, state=state)


def allowed_pairs(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Bool[Tensor, "#batch 1 #time keys"] | None:
    """Which (query, key) pairs may meet, broadcastable to ``(batch, heads, time, keys)``; None when all may.

    In causal order the last query meets the last key: fewer queries than keys are the end of a stream.
    """
    allowed = None if mask is None else mask[:, None, None, :]
    if causal:
        time, keys = q.shape[2], k.shape[2]
        past = torch.ones(1, 1, time, keys, dtype=torch.bool, device=q.device).tril(keys - time)
        allowed = past if allowed is None else past & allowed
    return allowed


def softmax_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    allowed: Bool[Tensor, "#batch #heads #time keys"] | None = None,
) -> Float[Tensor, "batch heads time keys"]:
    """``softmax(q k^T / sqrt(head_dim))`` written out; a row with nothing allowed is all zeros."""
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if allowed is None:
        return scores.softmax(-1)
    # the lowest finite score, not -inf, so that an empty row has a gradient (of zero) instead of NaN
    weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~allowed, 0.0)


def _reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """Attention as the textbook writes it, one query of one head at a time; what the fused form is compared with."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 :] = False
                scores = k[b, h, visible] @ q[b, h, t] / q.shape[-1] ** 0.5
                out[b, h, t] = scores.softmax(0) @ v[b, h, visible]
    return out
