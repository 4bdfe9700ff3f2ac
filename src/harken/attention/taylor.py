"""Attention by the second-order Taylor series of the exponential: linear in length, exact in its own right."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, precise
from harken.attention._chunked import checked_chunk_size, joined, pieces, segments
from harken.attention.deconstructed import StandardAttention, Variant
from harken.errors import InputError

TaylorNorm = Literal["joint", "separate"]
# a row that sees nothing has no weights: it becomes zero instead of infinite
_SMALLEST_SUM = 1e-6
# queries that go together where all pairs meet directly, and positions between two updates of the sums
_DIRECT_CHUNK = 128


class TaylorState(NamedTuple):
    """What a stream has summed up, in float32 at least, and where it is.

    Shape:
        - sums: ``(batch, heads, features, head_dim + 1)``, the sum of ``f(k)^T [v, 1]``
        - position: ``(batch,)``, how many positions have passed
    """

    sums: Tensor
    position: Tensor


class ApproximateAttention(StandardAttention):
    """Attention by the second-order Taylor series of the exponential, in time linear in length.

    ``y_i = sum_j w_ij v_j / sum_j w_ij`` with ``w = 1 + a + a^2 / 2`` and ``a = q_i k_j / sqrt(head_dim)``, always
    positive: equation 5 of the paper with the normalisation of Based (arXiv 2402.18668).

    Args:
        taylor_norm: ``separate`` divides each order by a sum of its own, as the paper's appendix prints the recurrence;
            for study only: the linear order's sum may vanish, and the rows sum to 3.
        chunk_size: positions between two updates of the sums; changes speed and memory, not the result.
        **options: of :class:`StandardAttention`.
    """

    variant: Variant = "approximate"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True)
    state_type: ClassVar[type[tuple]] = TaylorState

    def __init__(
        self, dim: int, heads: int, *, taylor_norm: TaylorNorm = "joint", chunk_size: int = 128, **options: Any
    ):
        super().__init__(dim, heads, **options)
        if taylor_norm not in ("joint", "separate"):
            raise InputError(f"taylor_norm='{taylor_norm}' is unknown: joint or separate")
        self.taylor_norm: TaylorNorm = taylor_norm
        self.chunk_size = checked_chunk_size(chunk_size)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return taylor_attention(
            q, k, v, causal=self.causal, mask=mask, norm=self.taylor_norm, chunk_size=self.chunk_size
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return taylor_weights(q, k, causal=self.causal, mask=mask, norm=self.taylor_norm)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: TaylorState) -> tuple[Tensor, TaylorState]:
        return taylor_stream(q, k, v, state, norm=self.taylor_norm, chunk_size=self.chunk_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        d, sequences = self.head_dim, batch * self.heads
        sums = sequences * features(d) * (d + 1)
        state = max(4, self._item_size) * sums + 8 * batch if self.causal else 0
        flops = sequences * taylor_flops(time, d, d, self.chunk_size, causal=self.causal)
        return Cost(flops=flops, bytes=(4 * batch * time * self.dim + sums) * self._item_size, state=state)

    def _empty(self, batch_size: int, device: torch.device, dtype: torch.dtype) -> TaylorState:
        shape = (batch_size, self.heads, features(self.head_dim), self.head_dim + 1)
        sums = torch.zeros(shape, device=device, dtype=torch.promote_types(dtype, torch.float32))
        return TaylorState(sums, torch.zeros(batch_size, device=device, dtype=torch.int64))

    def _position(self, state: TaylorState) -> Tensor:
        return state.position


def taylor_features(x: Float[Tensor, "*batch head_dim"]) -> Float[Tensor, "*batch features"]:
    """``[1, x / d^(1/4), vec(x x^T) / (2 d)^(1/2)]``: products are ``1 + a + a^2 / 2`` with ``a = q k / sqrt(d)``.

    The map of Based (arXiv 2402.18668), ``1 + d + d^2`` wide. :func:`taylor_attention` multiplies about half as many,
    since ``x_i x_j`` is ``x_j x_i``.

    >>> taylor_features(torch.ones(4)).shape
    torch.Size([21])
    """
    d = x.shape[-1]
    squares = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
    return torch.cat((torch.ones_like(x[..., :1]), x * d**-0.25, squares * (2 * d) ** -0.5), -1)


def taylor_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    norm: TaylorNorm = "joint",
    chunk_size: int = _DIRECT_CHUNK,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values mixed by ``1 + a + a^2 / 2`` with ``a = q k / sqrt(head_dim)``, rows divided by their sums.

    Up to as many keys as there are features pairs meet directly, which costs less; beyond, in time linear in length,
    through the sums of :class:`TaylorState`. Half precision is summed in float32.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> torch.allclose(taylor_attention(q, k, v, causal=True), v)
    True
    """
    if k.shape[2] > features(q.shape[-1]):
        return _through_sums(q, k, v, causal, mask, norm, chunk_size, None)[0]
    values, mixed = _with_ones(v, mask), []
    for part in segments(q.shape[2], chunk_size):
        keys = part.stop if causal else k.shape[2]
        met = _met(q[:, :, part], k[:, :, :keys], values[:, :, :keys], causal, norm)
        mixed.append(_divided(met).to(v.dtype))
    return joined(mixed)


def taylor_stream(
    q: Tensor, k: Tensor, v: Tensor, state: TaylorState, *, norm: TaylorNorm = "joint", chunk_size: int = _DIRECT_CHUNK
) -> tuple[Tensor, TaylorState]:
    """The next positions of a stream."""
    mixed, sums = _through_sums(q, k, v, True, None, norm, chunk_size, state.sums)
    return mixed, TaylorState(sums, state.position + q.shape[2])


def taylor_weights(
    q: Tensor, k: Tensor, *, causal: bool = False, mask: Tensor | None = None, norm: TaylorNorm = "joint"
) -> Tensor:
    """The matrix that :func:`taylor_attention` implies, ``(batch, heads, time, keys)``."""
    identity = torch.eye(k.shape[2], device=k.device, dtype=k.dtype).expand(*k.shape[:3], -1)
    return _divided(_met(q, k, _with_ones(identity, mask), causal, norm)).to(q.dtype)


def taylor_flops(time: int, head_dim: int, value_dim: int, chunk_size: int, *, causal: bool) -> int:
    """What :func:`taylor_attention` costs for one head of one sequence."""
    width, wide = value_dim + 1, features(head_dim)
    parts = [(part.stop - part.start, part.stop) for part in segments(time, chunk_size)]
    if time <= wide:
        return sum(2 * size * (stop if causal else time) * (head_dim + width) for size, stop in parts)
    directly = sum(2 * size * size * (head_dim + width) for size, _ in parts) if causal else 0
    return directly + 4 * time * wide * width


def features(head_dim: int) -> int:
    """How many features the sums of a stream have: the constant, the linear ones, and each product of two."""
    return 1 + head_dim + head_dim * (head_dim // 2 + 1)


def _through_sums(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    mask: Tensor | None,
    norm: TaylorNorm,
    chunk_size: int,
    sums: Tensor | None,
) -> tuple[Tensor, Tensor]:
    values = _with_ones(v, mask)
    if sums is None:
        sums = values.new_zeros(*values.shape[:2], features(q.shape[-1]), values.shape[-1])
    counts, mixed = _counts(q.shape[-1], sums), []
    if not causal:
        for _, k_part, own in pieces(chunk_size, k, values):
            sums = sums + _half_features(k_part).transpose(-1, -2) @ own
    for _, q_part, *here in pieces(chunk_size, q, *((k, values) if causal else ())):
        met = _by_order(_half_features(q_part) * counts, sums, q.shape[-1], norm)
        if here:
            k_part, own = here
            direct = _met(q_part, k_part, own, True, norm)
            met = [one + other for one, other in zip(met, direct, strict=True)]
            sums = sums + _half_features(k_part).transpose(-1, -2) @ own
        mixed.append(_divided(met).to(v.dtype))
    return joined(mixed), sums


def _met(q: Tensor, k: Tensor, values: Tensor, causal: bool, norm: TaylorNorm) -> list[Tensor]:
    """Sums of values and of weights for pairs that meet directly, the orders together or one by one.

    In causal order the last query meets the last key.
    """
    a = (precise(q) * q.shape[-1] ** -0.5) @ precise(k).transpose(-1, -2)
    orders = [torch.addcmul(a, a, a, value=0.5).add_(1.0)] if norm == "joint" else [torch.ones_like(a), a, a * a / 2]
    if causal:
        orders = [order.tril(k.shape[2] - q.shape[2]) for order in orders]
    return [order @ values for order in orders]


def _by_order(q: Tensor, sums: Tensor, d: int, norm: TaylorNorm) -> list[Tensor]:
    if norm == "joint":
        return [q @ sums]
    return [q[..., part] @ sums[..., part, :] for part in (slice(0, 1), slice(1, 1 + d), slice(1 + d, None))]


def _half_features(x: Tensor) -> Tensor:
    """``[1, x, x_i x_{i + s mod d}]`` for the shifts ``s`` up to ``d // 2``, which meet every pair once, as products of
    neighbours in memory; :func:`_counts` says what each product counts."""
    x = precise(x)
    d = x.shape[-1]
    shifted = torch.cat((x, x[..., : d // 2]), -1).unfold(-1, d, 1)
    return torch.cat((torch.ones_like(x[..., :1]), x, (shifted * x.unsqueeze(-2)).flatten(-2)), -1)


def _counts(d: int, like: Tensor) -> Tensor:
    """What the product of two half features counts: shift 0 meets a pair once where others stand for two orders, and a
    shift of half an even ``d`` meets every pair twice."""
    shifts = torch.full((d // 2 + 1, d), 1.0 / d, device=like.device, dtype=like.dtype)
    shifts[0] *= 0.5
    if d % 2 == 0:
        shifts[d // 2] *= 0.5
    ones = torch.ones(1 + d, device=like.device, dtype=like.dtype)
    ones[1:] *= d**-0.5
    return torch.cat((ones, shifts.flatten()))


def _with_ones(v: Tensor, mask: Tensor | None) -> Tensor:
    """Values with a column that counts them; nothing at all where the mask says padding."""
    values = F.pad(precise(v), (0, 1), value=1.0)
    return values if mask is None else values.masked_fill(~mask[:, None, :, None], 0.0)


def _divided(orders: list[Tensor]) -> Tensor:
    parts = []
    for order, met in enumerate(orders):
        mixed, total = met[..., :-1], met[..., -1:]
        if order == 1:  # alone, the linear order has sums of either sign
            total = torch.where(total < 0, total.clamp_max(-_SMALLEST_SUM), total.clamp_min(_SMALLEST_SUM))
        parts.append(mixed / (total if order == 1 else total.clamp_min(_SMALLEST_SUM)))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1] + parts[2]
