"""Softmax attention in which a query meets only keys nearby: the engine of spans, shifted groups and bounded caches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.errors import InputError

Kind = Literal["full", "block", "previous", "window"]
# (query, key) pairs whose mask is held at once, and copied keys and values: longer sequences go segment by segment
_LARGEST_MASK = _LARGEST_COPY = 2**22
# queries of a window that go together, at least: smaller blocks waste less on masked pairs and more on copies of keys
_SMALLEST_BLOCK = 64


@dataclass(frozen=True)
class Span:
    """Which keys a query at ``i`` may meet.

    ``full``: all; ``block``: those of its own block of ``size``, ``i // size == j // size``; ``previous``: those of its
    own block and the one before (bidirectional: also the one after); ``window``: ``|i - j| <= size``. Causal order
    takes those after ``i`` away. The first ``sinks`` positions are met by every query behind them. ``shift`` makes the
    first block shorter by as many positions.

    Raises:
        InputError: an unknown kind, or a size that is none.
    """

    kind: Kind = "full"
    size: int = 0
    sinks: int = 0
    shift: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("full", "block", "previous", "window"):
            raise InputError(f"span='{self.kind}' is unknown: one of full, block, previous, window")
        if self.kind != "full" and self.size < 1:
            raise InputError(f"a span of kind '{self.kind}' needs a size of at least 1 position, got {self.size}")
        if self.sinks < 0:
            raise InputError(f"sinks={self.sinks} must be at least 0")

    def border(self, position: int) -> int:
        """Where the block of ``position`` begins; before 0 for a first block cut short."""
        return position - (position + self.shift) % self.block

    def joins(self, start: int, stop: int) -> bool:
        """Whether all positions from ``start`` to ``stop`` may meet one another, order aside."""
        if self.kind == "window":
            return stop - start <= self.size + 1
        return self.kind == "full" or stop <= self.border(start) + self.left + self.size

    @property
    def left(self) -> int:
        """How far a block of queries looks back beyond its first one."""
        return 0 if self.kind == "block" else self.size

    @property
    def block(self) -> int:
        """Queries that go together."""
        return max(self.size // 4, _SMALLEST_BLOCK) if self.kind == "window" else self.size

    def start(self, query: int) -> int:
        """The first key that the last query of a stream meets, sinks aside."""
        if self.kind == "full":
            return 0
        return max(0, (query if self.kind == "window" else self.border(query)) - self.left)

    def keeps(self, time: int, slack: int = 1) -> int:
        """Cached positions with which to go on after ``time`` of them: the sinks, and the last of the others.

        A window keeps up to ``slack - 1`` more than it needs; blocks are left out whole, so borders stay in place.
        """
        if self.kind == "full":
            return time
        needed = self.sinks + self.left + (0 if self.kind == "window" else time % self.size)
        period = slack if self.kind == "window" else self.size
        return time - max(0, time - needed) // period * period

    def allowed(self, queries: Tensor, keys: Tensor, *, causal: bool) -> Tensor:
        """The boolean matrix for given indices of queries and keys."""
        i, j = queries[:, None], keys[None, :]
        if self.kind == "full":
            near = torch.ones(len(queries), len(keys), dtype=torch.bool, device=queries.device)
        elif self.kind == "window":
            near = (i - j).abs() <= self.size
        else:
            one, other = ((at + self.shift) // self.size for at in (i, j))
            near = (one - other).abs() <= (1 if self.kind == "previous" else 0)
        if self.sinks:
            near = near | (j < self.sinks)
        return near & (j <= i) if causal else near


EVERYTHING = Span()


def local_attention(
    q: Float[Tensor, "batch heads time dim"],
    k: Float[Tensor, "batch kv_heads keys dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    span: Span,
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Softmax attention within a span, block of queries by block: time and memory linear in length.

    The last query is at the last key: fewer queries than keys are the end of a stream. Where blocks of the same shape
    follow one another they are folded into the batch and go through the fused kernel together.
    """
    time, keys = q.shape[2], k.shape[2]
    offset = keys - time
    if time == 1 and causal:
        return _direct(q, k, v, span, span.start(offset), keys, offset, causal=True, mask=mask)
    if offset == 0 and span.joins(0, keys) and (mask is None or keys * keys * q.shape[0] <= _LARGEST_MASK):
        return _direct(q, k, v, span, 0, keys, 0, causal=causal, mask=mask)
    if span.kind == "full":
        rows = max(_SMALLEST_BLOCK, _LARGEST_MASK // (keys * (1 if mask is None else q.shape[0])))
        starts = range(offset, keys, rows)
        cuts = [
            (q[:, :, at - offset : at - offset + rows], at, min(at + rows, keys) if causal else keys) for at in starts
        ]
        return _joined([_direct(part, k, v, span, 0, stop, at, causal=causal, mask=mask) for part, at, stop in cuts])
    block, left = span.block, span.left
    right = 0 if causal or span.kind == "block" else span.size
    # from the first border on where no block of queries lacks a key on the left
    first = offset + -(offset + span.shift) % block
    first += -(-max(0, left + span.sinks - first) // block) * block
    count = max(0, (keys - right - first) // block)
    if count < 2:
        first, count = keys, 0
    parts, at = [], offset
    while at < keys:
        if at == first:
            parts.append(_folded(q, k, v, span, at, offset, count, right, causal=causal, mask=mask))
            at = first + count * block
        else:
            stop = min(span.border(at) + block, keys)
            start, end = max(0, span.border(at) - left), min(keys, stop + right)
            queries = q[:, :, at - offset : stop - offset]
            parts.append(_direct(queries, k, v, span, start, end, at, causal=causal, mask=mask))
            at = stop
    return _joined(parts)


def local_flops(span: Span, time: int, width: int, *, causal: bool) -> int:
    """FLOPs of :func:`local_attention` for ``width`` channels in all heads, masked pairs included."""
    if span.joins(0, time):
        return 4 * time * time * width
    right = 0 if causal or span.kind == "block" else span.size
    at, pairs = 0, 0
    while at < time:
        start, stop = max(0, span.border(at) - span.left), min(time, span.border(at) + span.block)
        pairs += (stop - at) * (min(time, stop + right) - start + min(span.sinks, start))
        at = stop
    return 4 * pairs * width


def _direct(
    q: Tensor, k: Tensor, v: Tensor, span: Span, start: int, stop: int, at: int, *, causal: bool, mask: Tensor | None
) -> Tensor:
    """Queries from index ``at`` on against the keys from ``start`` to ``stop`` and the sinks before them."""
    sinks = min(span.sinks, start)
    if q.shape[2] == 1 and sinks and start - sinks < stop - start:
        start = sinks = 0  # one row's mask costs less than moving the sinks beside the others
    k, v = _with_sinks(k, start, stop, sinks), _with_sinks(v, start, stop, sinks)
    time = q.shape[2]
    gqa = q.shape[1] != k.shape[1]
    if mask is not None:
        mask = torch.cat((mask[:, :sinks], mask[:, start:stop]), 1) if sinks else mask[:, start:stop]
    if causal:
        triangle = not sinks and start == at and span.joins(start, stop)
        everything = time == 1 and start == span.start(at)  # a stream's next position
    else:
        triangle, everything = False, span.joins(start, stop)
    if mask is None and triangle and time > 1:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    if everything:
        allowed = None if mask is None else mask[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=gqa)
    indices = torch.arange(start - sinks, stop, device=q.device)
    if sinks:
        indices[:sinks] = torch.arange(sinks, device=q.device)
    allowed = span.allowed(torch.arange(at, at + time, device=q.device), indices, causal=causal)[None, None]
    if mask is not None:
        allowed = allowed & mask[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=gqa)


def _with_sinks(x: Tensor, start: int, stop: int, sinks: int) -> Tensor:
    return torch.cat((x[:, :, :sinks], x[:, :, start:stop]), 2) if sinks else x[:, :, start:stop]


def _folded(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    span: Span,
    first: int,
    offset: int,
    count: int,
    right: int,
    *,
    causal: bool,
    mask: Tensor | None,
) -> Tensor:
    """``count`` whole blocks of queries from index ``first`` on, folded into the batch."""
    batch, heads, block, left, sinks = q.shape[0], q.shape[1], span.block, span.left, span.sinks
    width = sinks + left + block + right
    plain = span.kind == "block" and not sinks  # every pair of a block may meet, or those below its diagonal
    pattern = None
    if not plain:
        keys = torch.arange(first - left - sinks, first + block + right, device=q.device)
        keys[:sinks] = torch.arange(sinks, device=q.device)
        pattern = span.allowed(torch.arange(first, first + block, device=q.device), keys, causal=causal)[None, None]
    elif causal and mask is not None:
        pattern = torch.ones(1, 1, block, block, dtype=torch.bool, device=q.device).tril()
    together = count
    if width != block:
        together = min(together, max(1, _LARGEST_COPY // (batch * width * k.shape[1] * k.shape[3])))
    if mask is not None:
        together = min(together, max(1, _LARGEST_MASK // (batch * block * width)))
    parts = []
    for at in range(0, count, together):
        blocks = min(together, count - at)
        start = first + at * block
        queries = _blocks(q[:, :, start - offset : start - offset + blocks * block], block)
        near_k, near_v = (_strips(x, start - left, blocks, block, left + block + right, sinks) for x in (k, v))
        allowed = pattern
        if mask is not None:
            real = _strips(mask[:, None, :, None], start - left, blocks, block, left + block + right, sinks)
            real = real.transpose(-1, -2)
            allowed = real if pattern is None else pattern & real
        mixed = F.scaled_dot_product_attention(
            queries,
            near_k,
            near_v,
            attn_mask=allowed,
            is_causal=causal and plain and mask is None,
            enable_gqa=heads != k.shape[1],
        )
        parts.append(mixed.unflatten(0, (batch, blocks)).transpose(1, 2).flatten(2, 3))
    return _joined(parts)


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _blocks(x: Tensor, block: int) -> Tensor:
    """``(batch, heads, blocks * block, dim)`` to ``(batch * blocks, heads, block, dim)``, a view of a projection."""
    return x.unflatten(2, (-1, block)).transpose(1, 2).flatten(0, 1)


def _strips(x: Tensor, start: int, blocks: int, step: int, width: int, sinks: int) -> Tensor:
    """``blocks`` strips of ``width`` positions, ``step`` apart, each behind the sinks, folded into the batch."""
    if width == step and not sinks:
        return _blocks(x[:, :, start : start + blocks * step], step)
    strips = x[:, :, start : start + (blocks - 1) * step + width].unfold(2, width, step).permute(0, 2, 1, 4, 3)
    if sinks:
        always = x[:, :, :sinks].unsqueeze(1).expand(-1, blocks, -1, -1, -1)
        strips = torch.cat((always, strips), 3)
    return strips.flatten(0, 1)
