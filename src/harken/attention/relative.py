"""Relative attention of the Music Transformer: a learned logit for every distance, by skewing (arXiv 1809.04281)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, KeyValueCache, ProjectedAttention
from harken.attention._growing import latest
from harken.errors import CapabilityError, InputError


class RelativeAttention(ProjectedAttention):
    """Softmax attention whose logits know distances, ``(q_i k_j + q_i e_{i-j}) / sqrt(head_dim)``.

    ``e_n`` is the row that a learned table keeps for distance ``n``; a distance beyond the table adds nothing (section
    3.4 of the paper; the clipping of Shaw et al. repeats the last row instead). ``q e`` is one product with the table,
    and *skewing* turns its column per distance into a column per key: a shifted reading of the same memory, so that no
    embedding per pair of positions exists. Queries go ``chunk_size`` at a time; without gradients no ``time x time``
    matrix exists either. With ``block_size`` a query sees its own block and the one before it (section 3.5), in time
    and memory linear in length.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``. Otherwise the table also has rows for the future.
        bias: whether the projections have one.
        max_relative_position: distances that the table knows, 0 among them; None: 512, or all that a block can meet.
        block_size: positions of a block in the local form (causal only); None for the global form.
        share_heads: one table for all heads instead of one for each.
        relative_values: add ``sum_j a_ij f_{i-j}`` from a second table to the output (off in the paper).
        chunk_size: queries that go at a time; changes speed and memory, not the result.

    Raises:
        CapabilityError: ``block_size`` without ``causal``.
        InputError: a size below 1.

    >>> layer = RelativeAttention(dim=16, heads=4, causal=True, max_relative_position=32)
    >>> layer(torch.randn(2, 7, 16)).shape, layer.key_table.shape
    (torch.Size([2, 7, 16]), torch.Size([4, 32, 4]))
    """

    name: ClassVar[str] = "relative"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False)
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        max_relative_position: int | None = None,
        block_size: int | None = None,
        share_heads: bool = False,
        relative_values: bool = False,
        chunk_size: int = 128,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if block_size is not None and not causal:
            raise CapabilityError("the local form of 'relative' is causal only: pass causal=True or no block_size")
        if max_relative_position is None:
            max_relative_position = 512 if block_size is None else 2 * block_size
        sizes = {"max_relative_position": max_relative_position, "block_size": block_size, "chunk_size": chunk_size}
        for option, size in sizes.items():
            if size is not None and size < 1:
                raise InputError(f"{option}={size} must be at least 1")
        self.block_size, self.chunk_size = block_size, chunk_size
        rows = max_relative_position if causal else 2 * max_relative_position - 1
        shape = (rows, self.head_dim) if share_heads else (heads, rows, self.head_dim)
        self.key_table = nn.Parameter(torch.randn(shape) * self.head_dim**-0.5)
        self.value_table = nn.Parameter(torch.randn(shape) * self.head_dim**-0.5) if relative_values else None

    @classmethod
    def from_authors(
        cls, state_dict: Mapping[str, Tensor], *, heads: int, causal: bool = True, block_size: int | None = None
    ) -> RelativeAttention:
        """A layer with the weights of one ``multihead_attention`` of Tensor2Tensor.

        Args:
            state_dict: ``q/kernel``, ``k/kernel``, ``v/kernel``, ``output_transform/kernel`` and the embedding
                tables, whatever path stands before each name.
            heads: what the authors' ``num_heads`` was.
            causal: False for an encoder's unmasked attention.
            block_size: the authors' ``block_length``, for their local attention.

        Raises:
            InputError: a name is missing.
        """
        query, key, value, out = (_ending(state_dict, f"{part}/kernel") for part in ("q", "k", "v", "output_transform"))
        key_table = _ending(state_dict, "key_relative_embeddings", "relative_embeddings")
        has_values = any(name.endswith("value_relative_embeddings") for name in state_dict)
        if block_size is not None:  # theirs has 4 blocks of rows, of which a query can meet the last two
            key_table = key_table[..., -2 * block_size :, :]
        rows = key_table.shape[-2]
        layer = cls(
            query.shape[0],
            heads,
            causal=causal,
            bias=False,
            max_relative_position=rows if causal else (rows + 1) // 2,
            block_size=block_size,
            share_heads=key_table.ndim == 2,
            relative_values=has_values,
        )
        weights = {
            "in_proj.weight": torch.cat((query, key, value), 1).T,
            "out_proj.weight": out.T,
            "key_table": key_table,
        }
        if has_values:
            weights["value_table"] = _ending(state_dict, "value_relative_embeddings")[..., -rows:, :]
        layer.load_state_dict(weights)
        return layer

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return relative_attention(
            q,
            k,
            v,
            self.key_table,
            self.value_table,
            causal=self.causal,
            mask=mask,
            block_size=self.block_size,
            chunk_size=self.chunk_size,
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return relative_weights(
            q,
            k,
            self.key_table,
            causal=self.causal,
            mask=mask,
            block_size=self.block_size,
            chunk_size=self.chunk_size,
        )

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
        whole = state.append(k, v)
        mixed = self.mix(q, whole.keys, whole.values, None)
        length = whole.keys.shape[2] - _first_visible(whole.keys.shape[2], self.block_size)
        return mixed, KeyValueCache(latest(whole.keys, length), latest(whole.values, length))

    def mix_cost(self, batch: int, time: int) -> Cost:
        past, products = _past(self.key_table, self.causal), 0
        for tile in _tiles(0, time, self.causal, self.block_size, self.chunk_size):
            rows = _distances(tile, past, self.causal)[2] * (1 if self.value_table is None else 2)
            products += (tile.stop - tile.start) * (2 * (tile.high - tile.low) + rows)
        remembered = time - _first_visible(time, self.block_size)
        return Cost(
            flops=2 * batch * self.dim * products,
            bytes=4 * batch * time * self.dim * self._item_size,
            state=2 * batch * remembered * self.dim * self._item_size if self.causal else 0,
        )


def relative_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    key_table: Float[Tensor, "*heads rows head_dim"],
    value_table: Float[Tensor, "*heads rows value_dim"] | None = None,
    *,
    causal: bool = True,
    mask: Bool[Tensor, "batch keys"] | None = None,
    block_size: int | None = None,
    scale: float | None = None,
    values_in_first_block: bool = True,
    chunk_size: int = 128,
) -> Float[Tensor, "batch heads time value_dim"]:
    """``softmax(scale (q_i k_j + q_i e_{i-j})) v``, with ``e`` from a table of one row per distance.

    Args:
        q: queries; fewer than keys are the last positions.
        k: keys.
        v: values.
        key_table: the last row is distance 0, the one before it distance 1, and so on; ``(2 M - 1, head_dim)`` with
            distance 0 in the middle when not ``causal``. One table, or one per head.
        value_table: rows added to the values, laid out as ``key_table``.
        causal: query ``t`` sees only keys up to ``t``.
        mask: True where a key is real.
        block_size: the local form: a query sees its own block and the one before.
        scale: of both terms; None for ``1 / sqrt(head_dim)``.
        values_in_first_block: False leaves ``value_table`` out of the first block (of a sequence shorter than two
            blocks altogether), as Tensor2Tensor's local attention does.
        chunk_size: queries that go at a time.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> relative_attention(q, k, v, torch.zeros(3, 4)).shape
    torch.Size([1, 2, 5, 4])
    """
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    first, past, without = k.shape[2] - q.shape[2], _past(key_table, causal), 0
    if block_size is not None and not values_in_first_block:
        without = block_size if k.shape[2] >= 2 * block_size else k.shape[2]
    mixed = []
    for tile in _tiles(first, k.shape[2], causal, block_size, chunk_size):
        weights = _tile_weights(q[:, :, tile.start - first : tile.stop - first], k, key_table, tile, causal, mask)
        part = weights @ v[:, :, tile.low : tile.high]
        if value_table is not None and tile.start >= without:
            near, end, count = _distances(tile, past, causal)
            by_distance = _by_distance(weights[..., near - tile.low : end - tile.low], count)
            part = part + by_distance @ _rows(value_table, tile, causal)
        mixed.append(part)
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2)


def relative_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    key_table: Float[Tensor, "*heads rows head_dim"],
    *,
    causal: bool = True,
    mask: Bool[Tensor, "batch keys"] | None = None,
    block_size: int | None = None,
    scale: float | None = None,
    chunk_size: int = 128,
) -> Float[Tensor, "batch heads time keys"]:
    """The matrix that :func:`relative_attention` applies to the values, written out."""
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    first, rows = k.shape[2] - q.shape[2], []
    for tile in _tiles(first, k.shape[2], causal, block_size, chunk_size):
        weights = _tile_weights(q[:, :, tile.start - first : tile.stop - first], k, key_table, tile, causal, mask)
        rows.append(F.pad(weights, (tile.low, k.shape[2] - tile.high)))
    return torch.cat(rows, 2)


def skew(by_distance: Float[Tensor, "*batch time rows"]) -> Float[Tensor, "*batch time rows-1"]:
    """A column per key from a column per distance: row ``i`` moves left by ``time - 1 - i`` (figure 1 of the paper).

    A view: row ``i`` is read one element earlier than the row before ended. What had no distance (the future, when the
    columns end at distance 0) is another row's, and must be masked.

    >>> skew(torch.tensor([[3, 2, 1, 0, -1], [3, 2, 1, 0, -1]]).float())  # two queries, after two earlier keys
    tensor([[ 2.,  1.,  0., -1.],
            [ 3.,  2.,  1.,  0.]])
    """
    time, rows = by_distance.shape[-2:]
    flat = by_distance.flatten(-2)
    return flat[..., time - 1 : time - 1 + time * (rows - 1)].unflatten(-1, (time, rows - 1))


def _by_distance(weights: Tensor, rows: int) -> Tensor:
    """The inverse of :func:`skew`: a column per distance from a column per key."""
    time, keys = weights.shape[-2:]
    if time == 1:
        return weights
    flat = F.pad(weights, (0, rows - 1 - keys)).flatten(-2)
    return F.pad(flat, (time - 1, 1)).unflatten(-1, (time, rows))


class _Tile(NamedTuple):
    """Queries ``start`` to ``stop``, which meet the keys ``low`` to ``high``."""

    start: int
    stop: int
    low: int
    high: int


def _tiles(first: int, keys: int, causal: bool, block_size: int | None, chunk_size: int) -> Iterator[_Tile]:
    start = first
    while start < keys:
        stop = min(start + chunk_size, keys)
        if block_size is not None:  # a tile stays in one block
            stop = min(stop, (start // block_size + 1) * block_size)
        yield _Tile(start, stop, _first_visible(start, block_size), stop if causal else keys)
        start = stop


def _first_visible(position: int, block_size: int | None) -> int:
    return 0 if block_size is None else max(0, (position // block_size - 1) * block_size)


def _past(table: Tensor, causal: bool) -> int:
    """How many distances from 0 upwards a table knows."""
    return table.shape[-2] if causal else (table.shape[-2] + 1) // 2


def _distances(tile: _Tile, past: int, causal: bool) -> tuple[int, int, int]:
    """The keys from one to another that are at a distance in the table from some query of a tile, and how many rows of
    the table these need, with the one that skewing eats. The future of a causal tile needs none."""
    queries = tile.stop - tile.start
    near, end = max(tile.low, tile.start - past + 1), tile.high
    if not causal:
        end = min(end, tile.stop + past - 1)
    return near, end, end - near + (0 if queries == 1 else 1 if causal else queries)


def _rows(table: Tensor, tile: _Tile, causal: bool) -> Tensor:
    """The rows of a table for the distances of a tile, the farthest first; zeros beyond its ends."""
    past = _past(table, causal)
    near, _, count = _distances(tile, past, causal)
    start = past - tile.stop + near
    rows = table[..., max(0, start) : start + count, :]
    before, after = max(0, -start), max(0, start + count - table.shape[-2])
    return F.pad(rows, (0, 0, before, after)) if before or after else rows


def _tile_weights(q: Tensor, k: Tensor, table: Tensor, tile: _Tile, causal: bool, mask: Tensor | None) -> Tensor:
    scores = q @ k[:, :, tile.low : tile.high].transpose(-1, -2)
    near, end, _ = _distances(tile, _past(table, causal), causal)
    logits = q @ _rows(table, tile, causal).transpose(-1, -2)
    if q.shape[2] > 1:
        logits = skew(logits)[..., : end - near]
    scores[..., near - tile.low : end - tile.low] += logits
    lowest = torch.finfo(scores.dtype).min  # not -inf, so that an empty row has a gradient (of zero) instead of NaN
    if causal and q.shape[2] > 1:
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu_(1)
        scores[..., -q.shape[2] :].masked_fill_(future, lowest)
    if mask is None:
        return scores.softmax(-1)
    padded = ~mask[:, None, None, tile.low : tile.high]
    weights = scores.masked_fill_(padded, lowest).softmax(-1).masked_fill(padded, 0.0)
    return weights.tril(tile.start - tile.low) if causal else weights


def _ending(state_dict: Mapping[str, Tensor], *endings: str) -> Tensor:
    for ending in endings:
        for name, tensor in state_dict.items():
            if name == ending or name.endswith(f"/{ending}"):
                return tensor
    raise InputError(f"expected a weight whose name ends in {endings[0]}, got {', '.join(sorted(state_dict)[:6])}")


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_table: Tensor,
    value_table: Tensor | None = None,
    *,
    causal: bool = True,
    mask: Tensor | None = None,
    block_size: int | None = None,
) -> Tensor:
    """The definition, one query of one head at a time, with an embedding looked up for every pair."""
    past = key_table.shape[-2] if causal else (key_table.shape[-2] + 1) // 2
    key_table = key_table.expand(q.shape[1], -1, -1)
    value_table = k.new_zeros(1, 1, 1) if value_table is None else value_table
    value_table = value_table.expand(q.shape[1], key_table.shape[1], -1)
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                low = 0 if block_size is None else max(0, (i // block_size - 1) * block_size)
                seen = [j for j in range(low, i + 1 if causal else k.shape[2]) if mask is None or bool(mask[b, j])]
                row = [past - 1 - (i - j) for j in seen]
                known = torch.tensor([abs(i - j) < past for j in seen])[:, None]
                e, f = (table[h, [r % table.shape[1] for r in row]] * known for table in (key_table, value_table))
                weights = ((k[b, h, seen] + e) @ q[b, h, i] * q.shape[-1] ** -0.5).softmax(0)
                out[b, h, i] = weights @ (v[b, h, seen] + f)
    return out
