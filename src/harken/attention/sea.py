"""SEA: sparse attention at the places that a small network estimates in linear time (arXiv 2310.01777)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._cells import (
    Grouping,
    all_pairs,
    block_size,
    causal_pairs,
    keep,
    keep_causal,
    sparse_mix,
    sparse_tiles,
    widen,
    without,
)
from harken.attention._growing import grown
from harken.attention._sea_estimate import (
    REACH,
    BidirectionalEstimator,
    CausalEstimator,
    Estimate,
    EstimatorState,
    authors_weights,
)
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import emit

_FEWEST, _MOST = 1024, 4096  # query rows that go through the causal form together
_LOWEST = torch.finfo(torch.float32).min / 2


class SeaState(NamedTuple):
    """What a stream carries: the cache that kept keys are read from, and what the estimator and the average need.

    Shape:
        - keys, values: ``(batch, heads, time, head_dim)``
        - total: ``(batch, heads, head_dim)``, the sum of the values
        - features, features_values, rows, hidden_rows: the estimator's state, constant in size
    """

    keys: Tensor
    values: Tensor
    total: Tensor
    features: Tensor
    features_values: Tensor
    rows: Tensor
    hidden_rows: Tensor


class Lesson(NamedTuple):
    """What a softmax teacher makes of the same sequence, for distillation.

    Shape:
        - scores: ``(batch, heads, time, time)``, scaled, before mask and softmax
        - context: ``(batch, time, dim)``, the mixed values before the output projection; None leaves that term out
    """

    scores: Tensor
    context: Tensor | None = None


class SeaParts(NamedTuple):
    """Every intermediate of a pass with dense matrices: what lenses, distillation and comparisons look at.

    Shape:
        - estimate: what the estimator said
        - map: ``(batch, heads, time, map_width)``, the estimated attention, zero at padded rows
        - kept: the same shape, boolean, the cells kept; ``mask``: ``(batch, heads, time, time)``, the keys under them
        - sparse: the softmax over the kept keys times the first gate, ``(batch, heads, time, time)``
        - average: the averaging weights, ``(batch, heads, 1 or time, time)``
        - weights: the whole matrix; ``mixed``: ``(batch, heads, time, head_dim)``
    """

    estimate: Estimate
    map: Tensor
    kept: Tensor
    mask: Tensor
    sparse: Tensor
    average: Tensor
    weights: Tensor
    mixed: Tensor


class SeaAttention(ProjectedAttention):
    """Exact attention on about ``keys`` keys per query, chosen by an estimate of the attention map.

    A kernel attention over ``[position | value]`` and a small CNN estimate each row of the attention matrix, compressed
    to ``map_width`` cells. The largest cells are kept and widened to the keys they stand for, and
    ``y = g1 g0 softmax(q k^T / sqrt(head_dim) over kept) v + (1 - g1) average``: gates in (0, 1) per row and head, the
    average weighted by the mean estimate (bidirectional) or plain over the past (causal). Section 3 of the paper.

    The choice of cells has no gradient: the paper trains the estimator by distillation from a softmax teacher alone.
    Set :attr:`lesson` before a forward pass (or ``self_taught``) and the term is emitted as ``loss``; it compares whole
    matrices, so it is quadratic in time. ``straight_through`` lets the estimator also learn from the output, in linear
    time, as if kept scores carried a bias ``log(estimate)`` of value zero.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        keys: keys kept per query, on average.
        map_width: cells of the compressed map; a multiple of 4 (causal) or 2.
        grouping: whose cells compete: one query and head (``query``), one head (``head``), all heads and queries
            (``batch``), or all heads of one query (``causal_batch``, the only one of the four in causal order).
        feature_factor: the kernel attention has ``head_dim ln(head_dim) / feature_factor`` features.
        max_positions: of the causal position code; later positions share the last.
        sparse_from: up to this length all pairs meet under a mask, which is faster there and gives the same result.
        straight_through: whether the output trains the estimator; the released code has no such path.
        self_taught: without a lesson, distil from the layer's own dense softmax.
        legacy: treat padding as the released bidirectional code does: padded positions, at the end, reach the estimate
            of real ones, and the average counts them.
        seed: of the random features, which are saved with the weights.

    Raises:
        CapabilityError: a grouping without causal order in a causal layer.
        InputError: a size is out of range.

    >>> layer = SeaAttention(dim=16, heads=2, causal=True, keys=4, map_width=8)
    >>> layer(torch.randn(2, 20, 16)).shape
    torch.Size([2, 20, 16])
    """

    name: ClassVar[str] = "sea"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, normalized=False)
    state_type: ClassVar[type[tuple]] = SeaState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        keys: int = 64,
        map_width: int = 256,
        grouping: Grouping = "causal_batch",
        feature_factor: float = 8,
        max_positions: int = 2048,
        sparse_from: int = 2048,
        straight_through: bool = True,
        self_taught: bool = False,
        legacy: bool = False,
        seed: int = 0,
    ):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if grouping not in get_args(Grouping):
            raise InputError(f"no grouping '{grouping}': one of {', '.join(get_args(Grouping))}")
        if causal and grouping != "causal_batch":
            raise CapabilityError(f"grouping='{grouping}' has no causal order: use 'causal_batch'")
        step = 4 if causal else 2
        if map_width < step or map_width % step:
            raise InputError(f"map_width={map_width} must be a positive multiple of {step}")
        if keys < 1 or max_positions < 1 or feature_factor <= 0:
            raise InputError(f"{keys=}, {max_positions=} and {feature_factor=} must be positive")
        self.keys, self.map_width, self.grouping, self.sparse_from = keys, map_width, grouping, sparse_from
        self.straight_through, self.self_taught, self.legacy = straight_through, self_taught, legacy and not causal
        self.lesson: Lesson | None = None
        features = max(1, int(self.head_dim * math.log(self.head_dim) / feature_factor))
        self.estimator: CausalEstimator | BidirectionalEstimator
        if causal:
            self.estimator = CausalEstimator(heads, self.head_dim, map_width, features, max_positions, seed)
        else:
            self.estimator = BidirectionalEstimator(heads, self.head_dim, map_width, features, seed, legacy)

    @classmethod
    def from_authors(
        cls,
        state_dict: Mapping[str, Tensor],
        *,
        heads: int,
        causal: bool,
        keys: int,
        grouping: Grouping = "causal_batch",
        legacy: bool = True,
    ) -> SeaAttention:
        """A layer with the estimator of the authors' ``PerlinAttention``; the projections around it are not in there.

        Sizes are read from the tensors, and what the file has beyond the parts in use is left out.

        Raises:
            CheckpointError: a parameter is missing or does not fit the others.
        """
        weights = authors_weights(state_dict, causal)
        features, head_dim = weights["projection"].shape
        layer = cls(
            head_dim * heads,
            heads,
            causal=causal,
            keys=keys,
            map_width=weights["map_rows.weight"].shape[0] * 2 // (1 if causal else 4),
            grouping=grouping,
            max_positions=weights["positions"].shape[0] if causal else 1,
            legacy=legacy,
        )
        layer.estimator.projection = torch.empty(features, head_dim)
        try:
            layer.estimator.load_state_dict(weights)
        except RuntimeError as problem:
            raise CheckpointError(f"the authors' attention has other sizes: {str(problem).splitlines()[-1]}") from None
        return layer

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        q, k, v = self.project(x)
        emit(self, "weights", lambda: self._matrix(q, k, v, mask))
        emit(self, "mask", lambda: self._matrix(q, k, v, mask, kept=True))
        mixed = self.mix(q, k, v, mask)
        lesson = self.lesson
        if lesson is None and self.self_taught:
            lesson = Lesson((q @ k.transpose(-1, -2) * self.head_dim**-0.5).detach())
        if lesson is not None:
            emit(self, "loss", lambda: self.distillation(q, k, v, lesson, mask))
        return self.merge(mixed)

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        """The matrix of kept keys and average, gates included: its rows need not sum to 1."""
        self._check(x, context, mask, grid)
        return self._matrix(*self.project(x), mask)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None or self.legacy:
            return self._rows(q, k, v, None)[0] if self.causal else self._all(q, k, v, _lengths(mask))
        (q, k, v), back = _compact((q, k, v), mask)  # padding last: then it is as if it did not exist
        mixed = self._rows(q, k, v, None)[0] if self.causal else self._all(q, k, v, _lengths(mask))
        return _take(mixed, back)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        raise CapabilityError("the matrix of 'sea' depends on the values too: ask the layer for weights(x)")

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: SeaState) -> tuple[Tensor, SeaState]:
        return self._rows(q, k, v, state)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> SeaState:
        if not isinstance(self.estimator, CausalEstimator):
            raise self._lacks_step()
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        empty = torch.zeros(batch_size, self.heads, 0, self.head_dim, device=device, dtype=dtype)
        sums = torch.promote_types(dtype, torch.float32)
        total = torch.zeros(batch_size, self.heads, self.head_dim, device=device, dtype=sums)
        return SeaState(empty, empty, total, *self.estimator.start(batch_size, device, sums))

    def mix_cost(self, batch: int, time: int) -> Cost:
        d, width, positions = self.head_dim, self.map_width, batch * self.heads * time
        if self.causal:
            parts = [(part.start, part.stop - part.start) for part in _segments(0, time)]
            flops = sum(
                self.estimator.flops(batch, rows)
                + self._attend_flops(
                    batch, rows, first + rows, causal_pairs(first, rows, self.heads, self.keys, self.map_width)
                )
                for first, rows in parts
            )
        else:
            flops = self.estimator.flops(batch, time) + 2 * positions * d
            flops += self._attend_flops(
                batch, time, time, all_pairs(time, None, self.heads, self.keys, self.map_width, self.grouping)
            )
        cache = 2 * positions * d
        state = 0
        if self.causal:
            features = self.estimator.projection.shape[0]
            sums = batch * self.heads * (d + features * (2 * d + 1) + 4 * REACH * (width // 4))
            state = cache * self._item_size + sums * max(4, self._item_size)
        return Cost(flops=flops, bytes=(2 * cache + 4 * positions * width) * self._item_size, state=state)

    def parts(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch heads time head_dim"],
        v: Float[Tensor, "batch heads time head_dim"],
        lengths: Int[Tensor, " batch"] | None = None,
    ) -> SeaParts:
        """A whole pass with its intermediates, quadratic in time.

        ``lengths`` counts the real positions of each batch item, which come first. ``q`` is not yet scaled.
        """
        time = q.shape[2]
        places = torch.arange(time, device=q.device)
        if isinstance(self.estimator, CausalEstimator):
            state = self.estimator.start(q.shape[0], q.device, precise(q).dtype)
            estimate, _ = self.estimator(q * self.head_dim**-0.5, k, v, 0, state)
            cells = estimate.scores.softmax(-1)
            kept, widths = keep_causal(cells, 0, self.keys), places[None] + 1
            average = torch.ones(time, time, device=q.device).tril() / widths.mT
            average = average.expand(1, 1, time, time)
        else:
            v = without(v, lengths)
            estimate = self.estimator(q, k, v, lengths)
            cells, widths, average = self._map(estimate, lengths)
            kept = keep(cells, lengths, self.keys, self.grouping, legacy=self.legacy)
        mask = widen(kept, time, widths)
        sparse = self._softmax(q, k, mask) * estimate.gates[..., :1]
        weights = sparse * estimate.gates[..., 1:] + (1 - estimate.gates[..., 1:]) * average
        return SeaParts(estimate, cells, kept, mask, sparse, average, weights, (weights @ precise(v)).to(v.dtype))

    def distillation(
        self, q: Tensor, k: Tensor, v: Tensor, lesson: Lesson, mask: Tensor | None = None
    ) -> Float[Tensor, ""]:
        """How far estimate, scores and output are from the teacher's (section 3.2 of the paper and the released code).

        ``(KL / 10 + MSE)`` of the widened estimate, the same of the dense softmax of the scores, both against the
        teacher's attention, and the MSE of the mixed values against the teacher's. With ``legacy``, as in the released
        code, the mean squares also run over padded positions.
        """
        scores, context = precise(lesson.scores), lesson.context
        if mask is not None and not self.legacy:
            (q, k, v), _ = _compact((q, k, v), mask)
            order = _order(mask)
            scores = _take(_take(scores, order).mT, order).mT
            context = None if context is None else _take(context.unsqueeze(1), order).squeeze(1)
        lengths, time = _lengths(mask), q.shape[2]
        parts = self.parts(q, k, v, lengths)
        places = torch.arange(time, device=q.device)
        ends = torch.full((1, 1), time, device=q.device) if lengths is None else lengths.clamp_min(1)[:, None]
        widths = torch.minimum(places + 1, ends) if self.causal else ends.expand(-1, time)
        hidden = (places >= widths.unsqueeze(-1))[:, None]
        real = (places < ends)[:, None, :, None]
        own = precise(q) @ precise(k).mT * self.head_dim**-0.5
        teacher = scores.masked_fill(hidden, _LOWEST).softmax(-1)
        mean_over = torch.ones_like(real) if self.legacy else real
        loss = scores.new_zeros(())
        for guess in (widen(parts.estimate.scores, time, widths, _LOWEST), own):
            log = guess.masked_fill(hidden, _LOWEST).log_softmax(-1)
            divergence = teacher * ((teacher + 1e-12).log() - log).masked_fill(hidden, 0.0) * real
            rows = real.expand(len(q), -1, -1, -1).sum() * (self.heads if self.causal else 1)
            loss = loss + 0.1 * divergence.sum() / rows + _mean_square(log.exp() - teacher, mean_over)
        if context is not None:
            given = context.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            loss = loss + _mean_square(precise(parts.mixed) - given, mean_over)
        return loss

    # the causal form, from any state

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, state: SeaState | None) -> tuple[Tensor, SeaState]:
        assert isinstance(self.estimator, CausalEstimator)
        if state is None:
            state = self.init_state(q.shape[0], device=q.device, dtype=q.dtype)
        past, time = state.keys.shape[2], q.shape[2]
        keys, values = grown(state.keys, k), grown(state.values, v)
        estimator, total, mixed = EstimatorState(*state[3:]), state.total, []
        for part in _segments(past, time):
            first, rows, seen = past + part.start, part.stop - part.start, past + part.stop
            row_q, row_k, row_v = (whole[:, :, part] for whole in (q, k, v))
            estimate, estimator = self.estimator(row_q * self.head_dim**-0.5, row_k, row_v, first, estimator)
            cells = estimate.scores.softmax(-1)
            kept, widths = keep_causal(cells, first, self.keys), torch.arange(first + 1, seen + 1, device=q.device)
            pairs = causal_pairs(first, rows, self.heads, self.keys, self.map_width)
            chosen = self._attend(row_q, keys[:, :, :seen], values[:, :, :seen], cells, kept, widths[None], pairs)
            sums = precise(row_v).cumsum(2) + total.unsqueeze(2)
            total = sums[:, :, -1].clone()
            mixed.append(_gated(chosen, sums / widths[:, None], estimate.gates).to(v.dtype))
        return torch.cat(mixed, 2), SeaState(keys, values, total, *estimator)

    # the bidirectional form

    def _all(self, q: Tensor, k: Tensor, v: Tensor, lengths: Tensor | None) -> Tensor:
        v = without(v, lengths)
        estimate = self.estimator(q, k, v, lengths)
        cells, widths, average = self._map(estimate, lengths)
        pairs = all_pairs(q.shape[2], lengths, self.heads, self.keys, self.map_width, self.grouping)
        chosen = self._attend(
            q, k, v, cells, keep(cells, lengths, self.keys, self.grouping, legacy=self.legacy), widths, pairs
        )
        return _gated(chosen, average @ precise(v), estimate.gates).to(v.dtype)

    def _map(self, estimate: Estimate, lengths: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The estimated map without padded rows, how many keys each row sees, and the weights of the average."""
        cells = estimate.scores.softmax(-1)
        time = cells.shape[2]
        widths = torch.full((1, 1), time, device=cells.device) if lengths is None else lengths[:, None]
        cells = without(cells, lengths)
        rows = widths.clamp_min(1)[:, None, None] if not self.legacy else time
        return cells, widths.expand(-1, time), widen(cells.sum(2, keepdim=True) / rows, time, widths)

    # the kept keys

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, cells: Tensor, kept: Tensor, widths: Tensor, pairs: int
    ) -> Tensor:
        q, k, v, keys = precise(q), precise(k), precise(v), k.shape[2]
        bonus = self._bonus(cells)
        if keys > self.sparse_from:
            return sparse_mix(q * self.head_dim**-0.5, k, v, kept, widths, pairs, bonus)
        mask = widen(kept, keys, widths)
        added = q.new_zeros(()) if bonus is None else widen(bonus, keys, widths)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=torch.where(mask, added, _LOWEST))
        return mixed * mask.any(-1, keepdim=True)

    def _softmax(self, q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
        """Attention over the keys of ``mask``; a row without any is zero."""
        scores = precise(q) * self.head_dim**-0.5 @ precise(k).mT
        return scores.masked_fill(~mask, _LOWEST).softmax(-1).masked_fill(~mask, 0.0)

    def _bonus(self, cells: Tensor) -> Tensor | None:
        """Zero, with the gradient of a bias ``log(estimate)`` on the scores."""
        if not (self.straight_through and torch.is_grad_enabled()):
            return None
        log = cells.clamp_min(1e-12).log()
        return log - log.detach()

    def _attend_flops(self, batch: int, rows: int, keys: int, pairs: int) -> int:
        if keys <= self.sparse_from:
            return 4 * batch * rows * keys * self.dim
        block = block_size(keys, self.map_width)
        tiles, tile = sparse_tiles(batch * pairs, batch * self.heads * -(-keys // block))
        return 4 * tiles * tile * block * self.head_dim

    def _matrix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, kept: bool = False) -> Tensor:
        """The whole matrix, or which of its pairs are kept."""
        back = None
        if mask is not None and not self.legacy:
            (q, k, v), back = _compact((q, k, v), mask)
        parts = self.parts(q, k, v, _lengths(mask))
        matrix = parts.mask if kept else parts.weights.to(v.dtype)
        if mask is None:
            return matrix
        if back is not None:
            matrix = _take(_take(matrix, back).mT, back).mT
        return matrix.masked_fill(~mask[:, None, None], 0)


def _segments(past: int, time: int) -> list[slice]:
    """``time`` rows after ``past`` others, cut where doubling the past ends: early ones see few keys."""
    parts, start = [], 0
    while start < time:
        rows = min(max(past + start, _FEWEST), _MOST)
        parts.append(slice(start, min(start + rows, time)))
        start += rows
    return parts


def _gated(chosen: Tensor, average: Tensor, gates: Tensor) -> Tensor:
    first, second = precise(gates).split(1, -1)
    return second * first * chosen + (1 - second) * average


def _lengths(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.sum(-1)


def _order(mask: Tensor) -> Tensor:
    """Positions with the real ones first, in their order."""
    return (~mask).to(torch.uint8).argsort(dim=-1, stable=True)


def _compact(parts: tuple[Tensor, ...], mask: Tensor) -> tuple[list[Tensor], Tensor]:
    """Padding moved to the end, and the order that moves it back."""
    order = _order(mask)
    return [_take(part, order) for part in parts], order.argsort(-1)


def _take(x: Tensor, order: Tensor) -> Tensor:
    return x.gather(2, order[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))


def _mean_square(difference: Tensor, real: Tensor) -> Tensor:
    """Over the rows (axis 2) that are real."""
    square = difference.square() * real
    return square.sum() / (real.expand(*difference.shape[:3], 1).sum() * difference.shape[-1])


def _reference(q: Tensor, k: Tensor, v: Tensor, kept: Tensor, gates: Tensor, average: Tensor | None = None) -> Tensor:
    """The sparse part and the mixing for one query after another, given the kept cells; causal without ``average``."""
    out = torch.zeros_like(q)
    width = kept.shape[-1]
    for b, h, t in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        visible = t + 1 if average is None else k.shape[2]
        keys = [x for x in range(visible) if kept[b, h, t, math.floor((x + 0.5) / visible * width - 1e-4)]]
        chosen = torch.zeros_like(v[b, h, 0])
        if keys:
            chosen = (k[b, h, keys] @ q[b, h, t] * q.shape[-1] ** -0.5).softmax(0) @ v[b, h, keys]
        mean = v[b, h, :visible].mean(0) if average is None else average[b, h, 0] @ v[b, h]
        first, second = gates[b, h, t]
        out[b, h, t] = second * first * chosen + (1 - second) * mean
    return out
