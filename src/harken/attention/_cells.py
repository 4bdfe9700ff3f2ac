"""Exact attention over the keys that the kept cells of a compressed attention map stand for (used by SEA)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Grouping = Literal["query", "head", "batch", "causal_batch"]

_TILE = 64  # queries that meet a block of keys in one product, at most
_CACHED = 2**18  # scores of the tiles that are worked on together
_SMALLEST = -80.0  # as good as no weight; exponentials that underflow are several times slower
_LOWEST = torch.finfo(torch.float32).min


def cell_of(keys: int | Tensor, widths: Int[Tensor, "#batch rows"], map_width: int) -> Int[Tensor, "#batch rows keys"]:
    """The cell that key ``x`` of ``width`` visible ones reads: ``floor((x + 1/2) / width * map_width)``.

    ``keys`` counts keys from the first, or lists which. Keys at and beyond ``width`` get a valid cell that means
    nothing; :func:`widen` masks them. The nudge of 1e-4 settles keys whose middle falls on a border.
    """
    x = torch.arange(keys, device=widths.device) if isinstance(keys, int) else keys
    middle = (x + 0.5) / widths.unsqueeze(-1)
    return (middle * map_width - 1e-4).floor().long().clamp_(0, map_width - 1)


def widen(
    cells: Float[Tensor, "batch heads rows map_width"] | Bool[Tensor, "batch heads rows map_width"],
    keys: int,
    widths: Int[Tensor, "#batch rows"],
    fill: float = 0,
) -> Tensor:
    """A compressed map at the real keys, ``(batch, heads, rows, keys)``; ``fill`` where a row does not see a key."""
    batch, heads, rows, width = cells.shape
    index = cell_of(keys, widths, width)[:, None].expand(batch, heads, rows, keys)
    beyond = torch.arange(keys, device=cells.device) >= widths[:, None, :, None]
    return cells.gather(-1, index).masked_fill(beyond, fill)


def sparse_tiles(pairs: int, groups: int) -> tuple[int, int]:
    """How ``pairs`` of (query, block of keys) in ``groups`` are cut: number of tiles, queries in one."""
    tile = _TILE
    while tile > 1 and pairs < groups * tile:  # every group may leave a tile half empty
        tile //= 2
    return -(-pairs // tile) + (groups if tile > 1 else 0), tile


def sparse_mix(
    q: Float[Tensor, "batch heads rows head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys head_dim"],
    kept: Bool[Tensor, "batch heads rows map_width"],
    widths: Int[Tensor, "#batch rows"],
    pairs: int,
    bonus: Float[Tensor, "batch heads rows map_width"] | None = None,
) -> Float[Tensor, "batch heads rows head_dim"]:
    """``softmax(q k^T) v`` over the keys under kept cells; a row that keeps nothing is zero. ``q`` comes scaled.

    Keys are cut into blocks about as wide as a cell, so that a kept cell touches at most two. The touched (query,
    block) pairs, sorted by block, are dealt into tiles of queries that share a block, and all tiles meet their keys in
    one batched product: a query is copied per block it needs, never a key per query.

    Args:
        pairs: an upper bound on the touched pairs of one batch item; the size of every intermediate.
        bonus: added to the scores of a cell's keys.
    """
    batch, heads, rows, dim = q.shape
    keys, map_width = k.shape[2], kept.shape[-1]
    block = block_size(keys, map_width)
    blocks = -(-keys // block)
    groups, pairs = batch * heads * blocks, batch * pairs
    tiles, tile = sparse_tiles(pairs, groups)

    # which blocks a row touches: those that have kept cells between their first and last visible key
    edges = torch.arange(blocks, device=q.device) * block
    before = torch.nn.functional.pad(kept.int().cumsum(-1, dtype=torch.int32), (1, 0))
    last = torch.minimum(edges + block, widths.unsqueeze(-1)) - 1
    first_cell, last_cell = (
        cell_of(x, widths, map_width)[:, None].expand(batch, heads, rows, blocks) for x in (edges, last)
    )
    touched = before.gather(-1, last_cell + 1) > before.gather(-1, first_cell)
    touched = (touched & (edges < widths[:, None, :, None])).transpose(-1, -2).reshape(groups, rows)

    # deal the pairs into tiles
    counts = touched.sum(-1)
    pair = torch.nonzero_static(touched, size=pairs, fill_value=-1)
    real = pair[:, 0] >= 0
    group, row = pair.clamp_min(0).unbind(-1)
    ends = counts.cumsum(0)
    tile_ends = ((counts + tile - 1) // tile).cumsum(0)
    tile_starts = tile_ends - (counts + tile - 1) // tile
    slot = tile_starts[group] * tile + torch.arange(pairs, device=q.device) - (ends - counts)[group]
    slots = tiles * tile
    slot = torch.where(real, slot, slots)
    group_of_tile = torch.searchsorted(tile_ends, torch.arange(tiles, device=q.device), right=True)
    group_of_tile = group_of_tile.clamp_max(groups - 1)
    row_of_slot = torch.zeros(slots + 1, dtype=torch.long, device=q.device).scatter(0, slot, row)[:-1].view(tiles, tile)
    taken = torch.zeros(slots + 1, dtype=torch.bool, device=q.device).scatter(0, slot, real)[:-1].view(tiles, tile)
    head_of_tile = group_of_tile // blocks  # of batch * heads
    row_of_slot = row_of_slot + (head_of_tile * rows)[:, None]  # of batch * heads * rows

    # the products, some tiles at a time so that what lies between them stays in the cache
    missing = blocks * block - keys
    if missing:
        k, v = (torch.nn.functional.pad(part, (0, 0, 0, missing)) for part in (k, v))
    k, v, flat_q = k.reshape(groups, block, dim), v.reshape(groups, block, dim), q.reshape(-1, dim)
    flat_kept, flat_bonus = kept.flatten(), None if bonus is None else bonus.flatten()
    width = widths[:, None].expand(batch, heads, rows).reshape(-1)[row_of_slot].masked_fill(~taken, 0)
    x = group_of_tile[:, None] % blocks * block + torch.arange(block, device=q.device)
    peaks, totals, mixed = [], [], []
    together = max(1, _CACHED // (tile * block))
    for start in range(0, tiles, together):
        part = slice(start, start + together)
        row, seen, group = row_of_slot[part], width[part].unsqueeze(-1), group_of_tile[part]
        tiled = flat_q.index_select(0, row.flatten()).view(*row.shape, dim)
        scores = tiled @ k.index_select(0, group).mT
        place = x[part].unsqueeze(1)
        cell = ((place + 0.5) * (map_width / seen.clamp_min(1)) - 1e-4).long().clamp_max_(map_width - 1)
        cell += row.unsqueeze(-1) * map_width
        if flat_bonus is not None:
            scores = scores + flat_bonus[cell]
        scores = scores.masked_fill(flat_kept[cell].logical_and_(place < seen).logical_not_(), _LOWEST)
        peak = scores.detach().amax(-1, keepdim=True).clamp_min(_LOWEST / 2)
        odds = (scores - peak).clamp_min(_SMALLEST).exp()
        peaks.append(peak.flatten())
        totals.append(odds.sum(-1).flatten())
        mixed.append((odds @ v.index_select(0, group)).view(-1, dim))

    # one softmax over all blocks of a row
    where, peak = row_of_slot.flatten(), torch.cat(peaks)
    highest = peak.new_full((batch * heads * rows,), _LOWEST).scatter_reduce(0, where, peak, "amax")
    share = (peak - highest[where]).clamp_min(_SMALLEST).exp()
    total = torch.zeros_like(highest).scatter_add(0, where, torch.cat(totals) * share)
    out = torch.zeros_like(flat_q).scatter_add(
        0, where.unsqueeze(-1).expand(-1, dim), torch.cat(mixed) * share.unsqueeze(-1)
    )
    # the highest score of a row alone counts 1: less means that it keeps nothing
    return (out / total.clamp_min(0.5).unsqueeze(-1)).view_as(q)


def block_size(keys: int, map_width: int) -> int:
    """Keys in a block: the widest cell, so that no cell reaches into a third block."""
    return -(-keys // map_width)


def keep_causal(cells: Float[Tensor, "batch heads rows map_width"], first: int, keys: int) -> Tensor:
    """Which cells each row keeps, out of those of all its heads; early rows keep them all."""
    batch, heads, rows, width = cells.shape
    flat = cells.detach().transpose(1, 2).reshape(batch, rows, heads * width)
    counts = (heads * (keys * width / torch.arange(first + 1, first + rows + 1, device=cells.device))).round()
    kept, start = [], 0
    while start < rows:  # counts fall as 1 / t: pieces of doubling length sort no more than they need
        most = _at_most(heads * keys * width / (first + start + 1))
        longest = max(keys, first + start + 1) if most >= heads * width else 2 * (first + start + 1)
        end = min(rows, max(longest - first, start + 1))
        part = flat[:, start:end]
        if first + end <= keys:
            kept.append(torch.ones_like(part, dtype=torch.bool))
        else:
            kept.append(_largest(part, counts[start:end, None].clamp_min(1), most))
        start = end
    return torch.cat(kept, 1).view(batch, rows, heads, width).transpose(1, 2)


def causal_pairs(first: int, rows: int, heads: int, keys: int, map_width: int) -> int:
    """At most how many (query, block of keys) pairs rows ``first...`` of one batch item touch."""
    block, cells = block_size(first + rows, map_width), heads * keys * map_width
    return sum(
        min(heads * -(-width // block), 2 * max(1, _at_most(cells / width)))
        for width in range(first + 1, first + rows + 1)
    )


def keep(
    cells: Float[Tensor, "batch heads time map_width"],
    lengths: Tensor | None,
    keys: int,
    grouping: Grouping,
    *,
    legacy: bool = False,
) -> Tensor:
    """Which cells are kept: ``keys * map_width / length`` per query and head, shared as ``grouping`` says."""
    batch, heads, time, width = cells.shape
    length = torch.full((1,), time, device=cells.device) if lengths is None else lengths.clamp_min(1)
    share = keys * width / length
    cells = cells.detach()
    if lengths is not None and not legacy:
        cells = without(cells, lengths, -1.0)
    if grouping == "batch":
        flat, count, most = cells.flatten(1), length * heads * share, _at_most(heads * keys * width)
    elif grouping == "head":
        flat, count, most = cells.flatten(2), (length * share)[:, None], _at_most(keys * width)
    else:
        together = heads if grouping == "causal_batch" else 1
        flat = cells.transpose(1, 2).flatten(2) if grouping == "causal_batch" else cells
        count = (together * share).view(-1, *[1] * (flat.ndim - 2))
        most = _at_most(together * keys * width / time) if lengths is None else together * width
    kept = _largest(flat, count.round().clamp_min(1).unsqueeze(-1), most)
    if grouping == "causal_batch":
        kept = kept.view(batch, time, heads, width).transpose(1, 2)
    kept = kept.reshape(cells.shape)
    everywhere = legacy and grouping in ("batch", "head")
    return kept if lengths is None or everywhere else without(kept, lengths)


def all_pairs(time: int, lengths: Tensor | None, heads: int, keys: int, map_width: int, grouping: Grouping) -> int:
    """At most how many (query, block of keys) pairs one batch item touches."""
    most = heads * time * -(-time // block_size(time, map_width))
    if grouping in ("batch", "head"):
        cells = heads * (keys * map_width + 1)
    elif lengths is not None:  # whatever the lengths are, rounding adds at most one cell per row
        cells = heads * (keys * map_width + time)
    else:
        together = heads if grouping == "causal_batch" else 1
        per_row = max(1, _at_most(together * keys * map_width / time))
        cells = time * per_row * heads // together
    return min(most, 2 * cells)


def without(x: Tensor, lengths: Tensor | None, fill: float = 0.0) -> Tensor:
    """``x`` with its rows (axis 2) at and beyond each item's length set to ``fill``."""
    if lengths is None:
        return x
    return x.masked_fill((torch.arange(x.shape[2], device=x.device) >= lengths[:, None])[:, None, :, None], fill)


def _at_most(count: float | int) -> int:
    """What ``count`` may round to, whatever the precision it was computed in."""
    return math.floor(count + 0.5 + 1e-3)


def _largest(values: Tensor, counts: Tensor, most: int) -> Tensor:
    """True at the ``counts`` largest of each row (at most ``most``)."""
    most = min(max(most, 1), values.shape[-1])
    index = values.topk(most, sorted=True).indices
    first = (torch.arange(most, device=values.device) < counts).expand(index.shape)
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, index, first)
