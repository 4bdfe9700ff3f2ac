"""Attention spans, the layers that MASFormer mixes: full in a few, a block or a window in the others (2310.12442)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost
from harken.attention._local import Kind, Span, local_attention, local_flops
from harken.attention.cache import SpanCache, SpanState
from harken.attention.softmax import SoftmaxFamily, softmax_weights
from harken.errors import InputError

# positions by which a window with sinks outgrows its span before they are dropped, which copies the cache
_SLACK = 64


class SpanAttention(SoftmaxFamily):
    """Softmax attention in which position ``i`` meets only positions ``j`` in its span; linear in length.

    - ``block``: ``i // b == j // b``, blocks of ``b`` that do not see each other (the paper's block-sparse attention;
      information crosses blocks in the layers with a full span);
    - ``previous``: also the block before (bidirectional: and the one after), so that every position sees ``b`` others;
    - ``window``: ``|i - j| <= w``;
    - ``full``: all.

    Causal order takes ``j > i`` away. The first ``sinks`` positions may stay visible to all behind them. Which block
    the paper's authors use is not known for certain, so both are here. A stream carries what its span needs: at most a
    block, a block and the one before, or the window. Indices count padding: pad on the right.

    Args:
        dim: channels of input and output.
        heads: parallel heads.
        causal: position ``t`` sees only positions up to ``t``.
        span: ``full``, ``block``, ``previous`` or ``window``.
        span_size: positions in a block (``b``) or to each side of a window (``w``).
        sinks: first positions that all see.
        **options: of :class:`~harken.attention.softmax.SoftmaxFamily`; ``cache`` only for a full span, since the others
            bound it themselves.

    Raises:
        InputError: an unknown span, a size below 1, or a cache for a span that needs none.

    >>> layer = SpanAttention(dim=16, heads=4, causal=True, span="window", span_size=8)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> state.keys.shape
    torch.Size([2, 4, 8, 4])
    """

    name: ClassVar[str] = "span"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False)
    state_type: ClassVar[type[tuple]] = SpanState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        span: Kind = "block",
        span_size: int = 1024,
        sinks: int = 0,
        **options: Any,
    ):
        super().__init__(dim, heads, causal=causal, **options)
        self.span = Span(span, span_size, sinks)
        if span != "full":
            if options.get("cache") is not None:
                raise InputError(
                    f"a span of kind '{span}' bounds its cache itself: leave cache out, or use span='full'"
                )
            self.use_cache(SpanCache(self.span, _SLACK if sinks else 1))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return local_attention(q, k, v, self.span, causal=self.causal, mask=mask)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        indices = torch.arange(q.shape[2], device=q.device)
        allowed = self.span.allowed(indices, indices, causal=self.causal)[None, None]
        return softmax_weights(q, k, allowed if mask is None else allowed & mask[:, None, None])

    def mix_cost(self, batch: int, time: int) -> Cost:
        flops = batch * local_flops(self.span, time, self.heads * self.head_dim, causal=self.causal)
        return self._mix_cost(batch, time, flops)

    def extra_repr(self) -> str:
        """With the span."""
        return f"{super().extra_repr()}, span='{self.span.kind}', span_size={self.span.size}, sinks={self.span.sinks}"


def span_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time value_dim"],
    *,
    span: Kind = "block",
    span_size: int = 1024,
    sinks: int = 0,
    causal: bool = False,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Softmax attention within spans (:class:`SpanAttention`); no ``time x time`` matrix exists.

    >>> q = k = v = torch.randn(1, 2, 10, 4)
    >>> whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    >>> torch.allclose(span_attention(q, k, v, span="window", span_size=9, causal=True), whole, atol=1e-6)
    True
    """
    return local_attention(q, k, v, Span(span, span_size, sinks), causal=causal, mask=mask)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, *, span: str, size: int, sinks: int = 0, causal: bool, mask: Tensor | None = None
) -> Tensor:
    """One query of one head at a time, over the keys that the span allows."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = []
                for j in range(i + 1 if causal else k.shape[2]):
                    near = {
                        "full": True,
                        "block": i // size == j // size,
                        "previous": abs(i // size - j // size) <= 1,
                        "window": abs(i - j) <= size,
                    }[span]
                    if (near or j < sinks) and (mask is None or bool(mask[b, j])):
                        seen.append(j)
                scores = k[b, h, seen] @ q[b, h, i] / q.shape[-1] ** 0.5
                out[b, h, i] = scores.softmax(0) @ v[b, h, seen]
    return out
