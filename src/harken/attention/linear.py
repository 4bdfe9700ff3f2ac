"""Linear attention: time linear in length, a stream of constant size (Katharopoulos et al., arXiv 2006.16236)."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._chunked import (
    Kernel,
    LinearState,
    checked_chunk_size,
    kernel_attention,
    kernel_cost,
    kernel_step,
    kernel_stream,
    kernel_weights,
)

# a row whose features have all but vanished has no weights: it becomes zero instead of infinite
_SMALLEST_SUM = 1e-6


class LinearAttention(ProjectedAttention):
    """Attention by a product of features, ``y_t = f(q_t) S_t / (f(q_t) z_t)`` with ``f = elu + 1``.

    ``S`` is the sum of ``f(k_s)^T v_s`` and ``z`` that of ``f(k_s)``, over all positions or, when causal, over those up
    to ``t`` (equations 5, 8 and 9 to 12 of the paper). The causal form goes chunk by chunk: pairs inside a chunk meet
    directly, all that came before is met through the sums, so no ``time x time`` matrix and no sum per position exists.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    >>> layer = LinearAttention(dim=16, heads=4, causal=True)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4, 4]))
    """

    name: ClassVar[str] = "linear"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True)
    state_type: ClassVar[type[tuple]] = LinearState

    def __init__(self, dim: int, heads: int, *, causal: bool = False, bias: bool = True, chunk_size: int = 64):
        super().__init__(dim, heads, causal=causal, bias=bias)
        self.chunk_size = checked_chunk_size(chunk_size)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return linear_attention(q, k, v, causal=self.causal, mask=mask, chunk_size=self.chunk_size)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return kernel_weights(_KERNEL, q, k, causal=self.causal, mask=mask).to(q.dtype)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LinearState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        dtype = torch.promote_types(dtype or weight.dtype, torch.float32)
        keys = torch.zeros(batch_size, self.heads, self.head_dim, device=device or weight.device, dtype=dtype)
        return LinearState(keys.new_zeros(*keys.shape, self.head_dim), keys)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
        if q.shape[2] == 1:
            return kernel_step(_KERNEL, q, k, v, state)
        return kernel_stream(_KERNEL, q, k, v, None, state, self.chunk_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        return kernel_cost(
            batch * self.heads,
            time,
            self.head_dim,
            self.head_dim,
            self.chunk_size,
            causal=self.causal,
            items=self._item_size,
        )


def linear_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    chunk_size: int = 64,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values mixed by ``f(q) f(k)^T``, rows normalised, with ``f = elu + 1``; half precision is summed in float32.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> torch.allclose(linear_attention(q, k, v, causal=True), v)
    True
    """
    return kernel_attention(_KERNEL, q, k, v, causal=causal, mask=mask, chunk_size=chunk_size)


def elu_features(x: Tensor) -> Tensor:
    """``elu(x) + 1``: positive, and summable in float32."""
    return F.elu(precise(x)).add_(1.0)


def _divided(mixed: Tensor, total: Tensor) -> Tensor:
    return mixed / total.clamp_min(_SMALLEST_SUM)


_KERNEL = Kernel(elu_features, elu_features, _divided)


def _reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """The paper's equation 5 as it stands: for each query a weighted mean of the values it sees."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 :] = False
                similarity = (F.elu(k[b, h, visible]) + 1) @ (F.elu(q[b, h, t]) + 1)
                out[b, h, t] = (similarity / similarity.sum()) @ v[b, h, visible]
    return out
