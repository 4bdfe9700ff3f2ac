"""Mechanisms as functions of queries, keys and values, all called alike: ``(q, k, v, causal=, mask=, training=)``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harken.attention._local import Kind, Span, local_attention
from harken.attention.cumulative import cumulative_attention, position_scores
from harken.attention.flow import flow_attention
from harken.attention.lightning import head_slopes, lightning_attention
from harken.attention.shifted import shifted_attention
from harken.attention.softmax import allowed_pairs


def softmax(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, training: bool) -> Tensor:
    allowed = mask
    if mask is None or mask.ndim == 2:
        if mask is None and (not causal or q.shape[2] == k.shape[2]):
            gqa = k.shape[1] != q.shape[1]
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=gqa)
        allowed = allowed_pairs(q, k, causal=causal, mask=mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=k.shape[1] != q.shape[1])


def lightning(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    training: bool,
    decay: bool = True,
    chunk_size: int = 64,
) -> Tensor:
    slopes = head_slopes(q.shape[1]).to(q.device) if causal and decay else None
    return lightning_attention(F.silu(q), F.silu(k), v, slopes, causal=causal, mask=mask, chunk_size=chunk_size)


def span(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    training: bool,
    span: Kind = "block",
    span_size: int = 1024,
    sinks: int = 0,
) -> Tensor:
    return local_attention(q, k, v, Span(span, span_size, sinks), causal=causal, mask=mask)


def shifted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    training: bool,
    group_size: int | None = None,
    shift_fraction: float = 0.5,
    sinks: int = 0,
) -> Tensor:
    """In groups while training, full otherwise, as the layer."""
    if not training or q.shape[2] != k.shape[2]:
        return softmax(q, k, v, causal=causal, mask=mask, training=training)
    return shifted_attention(
        q,
        k,
        v,
        group_size=group_size or max(2, 2 * -(-q.shape[2] // 8)),
        shifted_heads=round(shift_fraction * q.shape[1]),
        sinks=sinks,
        causal=causal,
        mask=mask,
    )


def sink_shifted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    training: bool,
    group_size: int | None = None,
    shift_fraction: float = 0.25,
    sinks: int = 4,
) -> Tensor:
    options: dict[str, Any] = {"group_size": group_size, "shift_fraction": shift_fraction, "sinks": sinks}
    return shifted(q, k, v, causal=causal, mask=mask, training=training, **options)


def flow(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    mask: Tensor | None,
    training: bool,
    chunk_size: int = 64,
) -> Tensor:
    """Padded queries would take their share of the flow."""
    queries = None if causal else mask
    return flow_attention(q, k, v, causal=causal, mask=mask, query_mask=queries, chunk_size=chunk_size)


def non_approximate(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, training: bool) -> Tensor:
    return cumulative_attention(position_scores(q, k), v, causal=causal, mask=mask)[0]


def without_training(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A public function of a mechanism, which mixes alike in training and evaluation."""

    def mix(q: Tensor, k: Tensor, v: Tensor, *, training: bool, **options: Any) -> Tensor:
        return function(q, k, v, **options)

    mix.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    return mix


def root_mean_square(mixed: Tensor) -> Tensor:
    """All heads together to a root mean square of 1: what stands behind lightning's sums, which grow with length."""
    wide = mixed.to(torch.promote_types(mixed.dtype, torch.float32))
    return (wide * (wide.square().mean((1, 3), keepdim=True) + 1e-6).rsqrt()).to(mixed.dtype)
