"""Attention by content, lag and distance on a grid of moments and channels: the engine of multi-variate attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harken.attention._base import precise

# queries that meet their keys in one product: enough to keep the cores busy, few enough that scores stay in the cache
_QUERIES = 128


class RelativeTerms(NamedTuple):
    """What a query meets besides the keys: one key per lag in time and per distance in channels, and three biases.

    Shape:
        - time_keys: ``(kv_heads, lags, head_dim)``
        - channel_keys: ``(kv_heads, distances, head_dim)``
        - content_bias, time_bias, channel_bias: ``(kv_heads, head_dim)``, added to the query of each term
    """

    time_keys: Tensor
    channel_keys: Tensor
    content_bias: Tensor
    time_bias: Tensor
    channel_bias: Tensor


class GridRules(NamedTuple):
    """Who may meet whom on a grid, and by which rows of the tables.

    The options are those of :class:`harken.attention.multivariate.MultivariateAttention`; ``reverse`` is its upstream
    indexing.
    """

    channels: int
    time: int
    causal: bool = False
    content_window: int | None = 10
    reverse: bool = False
    last_sees_all: bool = False
    length: int | None = None
    max_time: int = 110

    @property
    def time_rows(self) -> int:
        """Rows of the time table in use."""
        return (self.length or self.time) if self.reverse else min(self.time, self.max_time)

    @property
    def channel_rows(self) -> int:
        """Rows of the channel table in use."""
        return self.channels


class Block(NamedTuple):
    """Moments whose queries go together: those from ``start`` to ``stop``.

    They meet the first ``keys`` moments, and those from ``near`` to ``near_stop`` by content too; their lags are in the
    first ``time_rows`` of the table.
    """

    start: int
    stop: int
    keys: int
    near: int
    near_stop: int
    time_rows: int


def multivariate_attention(
    q: Float[Tensor, "batch heads asking channels head_dim"],
    k: Float[Tensor, "batch kv_heads recent channels head_dim"],
    v: Float[Tensor, "batch kv_heads time channels head_dim"],
    terms: RelativeTerms,
    rules: GridRules,
    *,
    mask: Bool[Tensor, "batch positions"] | None = None,
) -> Float[Tensor, "batch heads asking channels head_dim"]:
    """Values mixed by content, lag and distance, block of queries by block of queries.

    The queries are the last ``asking`` of the ``time`` moments, the keys the last ``recent`` (all that any of those
    queries meets by content). Content is only computed inside the window, and what causality hides is skipped, so
    no ``positions x positions`` matrix exists at once (training keeps all blocks for the gradient); half precision is
    summed in float32.
    """
    values = v.flatten(2, 3)
    mixed = []
    for block in blocks(rules, rules.time - q.shape[2], has_mask=mask is not None):
        weights = block_weights(q, k, terms, rules, block, mask).to(v.dtype)
        part = weights @ values[:, :, : block.keys * rules.channels]
        mixed.append(part.unflatten(2, (-1, block.stop - block.start, rules.channels)))
    return torch.cat(mixed, 3).flatten(1, 2)


def blocks(rules: GridRules, first: int, *, has_mask: bool = False) -> Iterator[Block]:
    """The moments from ``first`` on, in blocks of about ``_QUERIES`` positions."""
    size = max(1, _QUERIES // rules.channels)
    end = rules.length or rules.time
    for start in range(first, rules.time, size):
        stop = min(start + size, rules.time)
        keys = stop if rules.causal else rules.time
        near, near_stop = 0, keys
        # with a mask every item of the batch may have a last moment of its own
        sees_all = rules.last_sees_all and (has_mask or stop == end)
        if rules.content_window is not None and not sees_all:
            near, near_stop = max(0, start - rules.content_window), min(keys, stop + rules.content_window)
        rows = rules.time_rows if rules.reverse else min(keys, rules.time_rows)
        yield Block(start, stop, keys, near, near_stop, rows)


def block_weights(
    q: Tensor, k: Tensor, terms: RelativeTerms, rules: GridRules, block: Block, mask: Tensor | None
) -> Tensor:
    """The rows of one block, ``(batch, kv_heads, queries, keys)``; queries are ``(shared, moments, channels)`` flat."""
    channels, kv_heads = rules.channels, k.shape[1]
    first, first_key = rules.time - q.shape[2], rules.time - k.shape[2]
    part = q[:, :, block.start - first : block.stop - first].unflatten(1, (kv_heads, -1)) * q.shape[-1] ** -0.5
    times, distances, near = _rows(rules, block, mask, q.device)
    by_time = _products(part, terms.time_bias, terms.time_keys[:, : block.time_rows])
    by_time = _pick(by_time, times[:, None, None, :, None])
    by_channel = _products(part, terms.channel_bias, terms.channel_keys)
    by_channel = _pick(by_channel, distances[:, None, None, None])
    scores = by_time.unsqueeze(-1) + by_channel.unsqueeze(-2)
    if block.near < block.near_stop:
        keys = k[:, :, block.near - first_key : block.near_stop - first_key].flatten(2, 3)
        content = _products(part, terms.content_bias, keys).unflatten(-1, (-1, channels))
        if near is not None:
            content = content.masked_fill_(~near[:, None, None, :, None, :, None], 0.0)
        scores[..., block.near : block.near_stop, :] += content
    if rules.causal and block.stop - block.start > 1:  # only within the block is anything ahead
        size = block.stop - block.start
        ahead = torch.ones(size, size, dtype=torch.bool, device=q.device).triu_(1)[:, None, :, None]
        scores[..., block.start :, :].masked_fill_(ahead, -torch.inf)
    if mask is None:
        return scores.flatten(-2).softmax(-1).flatten(2, 4)
    padding = ~mask[:, None, None, None, None, : block.keys * channels]
    # the lowest finite score, not -inf, so that an empty row has a gradient (of zero) instead of NaN
    weights = scores.flatten(-2).masked_fill(padding, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(padding, 0.0).flatten(2, 4)


def _products(query: Tensor, bias: Tensor, keys: Tensor) -> Tensor:
    """Scores of scaled queries ``(batch, kv_heads, shared, moments, channels, head_dim)``, along the last axis."""
    query = query + (bias * query.shape[-1] ** -0.5)[:, None, None, None]
    return precise(query.flatten(2, 4) @ keys.transpose(-1, -2)).unflatten(2, query.shape[2:5])


def _rows(
    rules: GridRules, block: Block, mask: Tensor | None, device: torch.device
) -> tuple[Int[Tensor, "#batch moments keys"], Int[Tensor, "#batch channels channels"], Tensor | None]:
    """Rows of the two tables for the pairs of a block, and which near pairs meet by content (None: all of them).

    The released indexing counts from the end, which is where the real moments and channels of each item end.
    """
    asking = torch.arange(block.start, block.stop, device=device)[:, None]
    lags = (asking - torch.arange(block.keys, device=device)).abs()[None]
    channel = torch.arange(rules.channels, device=device)
    distances = (channel[:, None] - channel).abs()[None]
    ends: Tensor | int = rules.length or rules.time
    near = None
    if mask is not None and (rules.reverse or rules.last_sees_all):
        real = mask.unflatten(1, (rules.time, rules.channels))
        if rules.length is None:
            ends = _end(real.any(2))
        if rules.reverse:
            distances = (_end(real.any(1)) - 1 - distances).clamp_min(0)
    elif rules.reverse:
        distances = rules.channels - 1 - distances
    window = rules.content_window
    if window is not None and max(block.stop - 1 - block.near, block.near_stop - 1 - block.start) > window:
        near = lags[..., block.near : block.near_stop] <= window
        if rules.last_sees_all:
            near = near | (asking == ends - 1)
    times = (ends - 1 - lags).clamp_min(0) if rules.reverse else lags.clamp_max(rules.max_time - 1)
    return times, distances, near


def _end(real: Bool[Tensor, "batch places"]) -> Int[Tensor, "batch 1 1"]:
    """One past the last real place of each row."""
    return (real * torch.arange(1, real.shape[1] + 1, device=real.device)).amax(1)[:, None, None]


def _pick(products: Tensor, rows: Tensor) -> Tensor:
    """The product with the row of each pair, along the last axis."""
    return products.gather(-1, rows.expand(*products.shape[:-1], rows.shape[-1]))


def _reference(
    q: Tensor, k: Tensor, v: Tensor, terms: RelativeTerms, rules: GridRules, mask: Tensor | None = None
) -> Tensor:
    """The three terms as the paper writes them, one pair of positions at a time."""
    batch, heads, time, channels, head_dim = q.shape
    out = torch.zeros_like(q)
    for b in range(batch):
        real = torch.ones(time, channels, dtype=torch.bool) if mask is None else mask[b].view(time, channels)
        last = (rules.length or int(real.any(1).nonzero().max()) + 1) - 1
        last_channel = int(real.any(0).nonzero().max())
        for h in range(heads):
            g = h * k.shape[1] // heads
            for t in range(time):
                for c in range(channels):
                    scores, values = [], []
                    for s in range(time):
                        for e in range(channels):
                            if not real[s, e] or (rules.causal and s > t):
                                continue
                            lag, distance = abs(t - s), abs(c - e)
                            near = rules.content_window is None or lag <= rules.content_window
                            near = near or (rules.last_sees_all and t == last)
                            time_row = max(last - lag, 0) if rules.reverse else min(lag, rules.max_time - 1)
                            channel_row = max(last_channel - distance, 0) if rules.reverse else distance
                            score = (q[b, h, t, c] + terms.time_bias[g]) @ terms.time_keys[g, time_row]
                            score += (q[b, h, t, c] + terms.channel_bias[g]) @ terms.channel_keys[g, channel_row]
                            if near:
                                score += (q[b, h, t, c] + terms.content_bias[g]) @ k[b, g, s, e]
                            scores.append(score / head_dim**0.5)
                            values.append(v[b, g, s, e])
                    out[b, h, t, c] = torch.stack(scores).softmax(0) @ torch.stack(values)
    return out
