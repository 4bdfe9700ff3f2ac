"""Attention through sums over the past, chunk by chunk: what the linear mechanisms without decay share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from harken.attention._base import Cost, precise
from harken.errors import InputError

# long sequences go piece by piece, so that what is stored between two products stays in the cache
SEGMENT = 4096


class LinearState(NamedTuple):
    """What a stream has summed up, in float32 at least, since the sums run over the whole past.

    Shape:
        - keys_values: ``(batch, heads, features, value_dim)``, the sum of ``f(k)^T v``
        - keys: ``(batch, heads, features)``, the sum of ``f(k)``
    """

    keys_values: Tensor
    keys: Tensor


class Kernel(NamedTuple):
    """A similarity ``f(q) f(k)^T`` and how its rows are divided by their sums; features come in float32 at least."""

    queries: Callable[[Tensor], Tensor]
    keys: Callable[[Tensor], Tensor]
    divided: Callable[[Tensor, Tensor], Tensor]
    segment: int = SEGMENT


def kernel_attention(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, *, causal: bool, mask: Tensor | None, chunk_size: int
) -> Tensor:
    """Values mixed by a kernel, through the sums of :class:`LinearState`: no ``time x time`` matrix."""
    if causal and q.shape[2] <= chunk_size:  # one chunk: every pair meets directly
        return (kernel_weights(kernel, q, k, causal=True, mask=mask) @ precise(v)).to(v.dtype)
    if causal:
        return kernel_stream(kernel, q, k, v, mask, None, chunk_size)[0]
    keys_values, keys = torch.zeros((), device=q.device), torch.zeros((), device=q.device)
    for part, k_part, v_part in pieces(kernel.segment, k, v):
        features = masked(kernel.keys(k_part), mask, part)
        keys_values = features.transpose(-1, -2) @ precise(v_part) + keys_values
        keys = features.sum(-2).unsqueeze(-1) + keys
    mixed = []
    for _, q_part in pieces(kernel.segment, q):
        features = kernel.queries(q_part)
        mixed.append(kernel.divided(features @ keys_values, features @ keys).to(v.dtype))
    return joined(mixed)


def kernel_stream(
    kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, state: LinearState | None, chunk_size: int
) -> tuple[Tensor, LinearState]:
    """The causal form, segment by segment; also the state after it."""
    mixed = []
    for part, q_part, k_part, v_part in pieces(whole_chunks(kernel.segment, chunk_size), q, k, v):
        features = masked(kernel.keys(k_part), mask, part)
        values = precise(v_part)
        state = empty_sums(features, values) if state is None else state
        y, total, state = mix_chunks(kernel.queries(q_part), features, values, state, chunk_size)
        mixed.append(kernel.divided(y, total).to(v.dtype))
    assert state is not None
    return joined(mixed), state


def kernel_step(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
    """One position of the causal form: the recurrence itself."""
    q, k = kernel.queries(q), kernel.keys(k)
    state = LinearState(state.keys_values + k.transpose(-1, -2) @ precise(v), state.keys + k.squeeze(2))
    return kernel.divided(q @ state.keys_values, q @ state.keys.unsqueeze(-1)).to(v.dtype), state


def kernel_weights(kernel: Kernel, q: Tensor, k: Tensor, *, causal: bool, mask: Tensor | None) -> Tensor:
    """The matrix that a kernel implies."""
    scores = kernel.queries(q) @ masked(kernel.keys(k), mask).transpose(-1, -2)
    if causal:
        scores = scores.tril_()
    return kernel.divided(scores, scores.sum(-1, keepdim=True))


def kernel_cost(
    sequences: int, time: int, features: int, value_dim: int, chunk_size: int, *, causal: bool, items: int
) -> Cost:
    """What :func:`kernel_attention` costs.

    Args:
        sequences: how many there are: batch times heads.
        time: length of each.
        features: width of ``f(q)`` and ``f(k)``.
        value_dim: width of the values.
        chunk_size: positions that meet directly in the causal form.
        causal: which form.
        items: bytes of one number.
    """
    chunks = -(-time // chunk_size)
    sums = sequences * features * (value_dim + 1)
    rows = sequences * (chunks * chunk_size if causal and chunks > 1 else time)
    by_sums = rows * (4 * features * value_dim + 2 * features)  # k^T v, q S and q z
    directly = 2 * rows * (features + value_dim)  # for each key met: its score, and the score's share of v
    if not causal:
        flops, stored = by_sums, sums
    elif chunks == 1:
        flops, stored = directly * time, rows * time
    else:
        flops, stored = by_sums + directly * chunk_size, rows * chunk_size + chunks * sums
    moved = rows * (2 * features + 2 * value_dim) + stored
    return Cost(flops=flops, bytes=moved * items, state=max(4, items) * sums if causal else 0)


def mix_chunks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: LinearState,
    chunk_size: int,
    counted: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, LinearState]:
    """Causal sums on features: chunks side by side, then one running sum over them.

    Pairs inside a chunk meet directly, all that came before is met through the sums.

    Args:
        q: ``f(q)``.
        k: ``f(k)``.
        v: the values.
        state: the sums before the first position.
        chunk_size: positions that meet directly.
        counted: the queries and keys whose products are summed for the totals, where these are not ``q`` and ``k``.

    Returns:
        ``sum_s (q_t k_s) v_s`` over the past of each ``t``, ``sum_s (q_t k_s)``, and the sums after the last position.
    """
    time = q.shape[2]
    q, k, v = (in_chunks(part, chunk_size) for part in (q, k, v))  # the zeros that fill up add nothing to any sum
    scores = (q @ k.transpose(-1, -2)).tril_()
    keys_values, keys_values_before = running_sum(k.transpose(-1, -2) @ v, state.keys_values)
    mixed = (scores @ v).add_(q @ keys_values_before)
    if counted is not None:
        q, k = (in_chunks(part, chunk_size) for part in counted)
        scores = (q @ k.transpose(-1, -2)).tril_()
    keys, keys_before = running_sum(k.sum(-2), state.keys)
    total = scores.sum(-1, keepdim=True).add_(q @ keys_before.unsqueeze(-1))
    return out_of_chunks(mixed, time), out_of_chunks(total, time), LinearState(keys_values, keys)


def prefix_sums(x: Tensor, start: Tensor, chunk_size: int) -> tuple[Tensor, Tensor]:
    """``start`` plus all of ``x`` up to each position, ``(batch, heads, time, width)``; and that after the last one."""
    chunks = in_chunks(x, chunk_size)
    after, before = running_sum(chunks.sum(3), start)
    # within a chunk first: one sum over a long axis would cross the memory once for each channel
    return out_of_chunks(chunks.cumsum(3).add_(before.unsqueeze(3)), x.shape[2]), after


def in_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """``(batch, heads, time, ...)`` as ``(batch, heads, chunks, size, ...)``, filled up with zeros."""
    time = x.shape[2]
    size = min(chunk_size, time)
    chunks = -(-time // size)
    missing = chunks * size - time
    if missing:
        x = F.pad(x, (0, 0) * (x.ndim - 3) + (0, missing))
    return x.unflatten(2, (chunks, size))


def out_of_chunks(x: Tensor, time: int) -> Tensor:
    """The way back: ``(batch, heads, chunks, size, ...)`` as ``(batch, heads, time, ...)``."""
    return x.flatten(2, 3)[:, :, :time]


def running_sum(parts: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of ``start`` and all ``parts`` along axis 2, and what each part finds before it."""
    sums = torch.cat((start.unsqueeze(2), parts), 2).cumsum(2)
    return sums[:, :, -1].clone(), sums[:, :, :-1]  # a copy, so that a state does not hold all the sums alive


def empty_sums(keys: Tensor, values: Tensor) -> LinearState:
    """The state before the first position, for features and values of these sizes."""
    nothing = torch.zeros_like(keys[:, :, 0])
    return LinearState(nothing.unsqueeze(-1) * torch.zeros_like(values[:, :, :1]), nothing)


def checked_chunk_size(chunk_size: int) -> int:
    """The size of a chunk, if it is one.

    Raises:
        InputError: it is not positive.
    """
    if chunk_size < 1:
        raise InputError(f"chunk_size={chunk_size} must be at least 1")
    return chunk_size


def segments(time: int, size: int) -> list[slice]:
    """The pieces in which a long sequence is worked on."""
    return [slice(start, min(start + size, time)) for start in range(0, time, size)]


def pieces(size: int, *whole: Tensor) -> list[tuple[Any, ...]]:
    """The pieces of tensors ``(batch, heads, time, ...)`` along time, each after the slice that it is.

    They are split, not sliced: a slice's gradient is as long as the whole, so that many would be quadratic work.
    """
    return list(zip(segments(whole[0].shape[2], size), *(x.split(size, 2) for x in whole), strict=False))


def whole_chunks(segment: int, chunk_size: int) -> int:
    """The largest multiple of ``chunk_size`` up to ``segment``, and one chunk at least."""
    return chunk_size * max(1, segment // chunk_size)


def joined(parts: list[Tensor]) -> Tensor:
    """The pieces side by side again along time."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def masked(x: Tensor, mask: Tensor | None, part: slice = slice(None)) -> Tensor:
    """``(batch, heads, time, width)``, zero where the mask (its ``part``) says padding."""
    return x if mask is None else x.masked_fill(~mask[:, None, part, None], 0.0)
