"""Shifted groups for training on long contexts: S2-Attn (2309.12307) and SF-Attn with sink tokens (2406.05678)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, KeyValueCache, State
from harken.attention._local import EVERYTHING, Span, local_attention, local_flops
from harken.attention.softmax import SoftmaxFamily, allowed_pairs, softmax_weights
from harken.errors import CapabilityError, InputError

Grouped = Literal["training", "always"]


class ShiftedAttention(SoftmaxFamily):
    """S2-Attn: softmax attention inside groups of positions, with the groups of half of the heads shifted by half.

    Information crosses a group's border through the shifted heads. It is a form for training: in ``eval`` mode the
    layer is full softmax attention with the same weights, as in the paper, and streams with any cache policy; with
    ``grouped="always"`` it keeps its groups and cannot stream.

    The released code rolls the shifted heads around, so that the first positions of a causal layer see the last ones
    (``wrap=True``). By default nothing wraps: the shifted heads begin with half a group, and causal means causal.

    Args:
        dim: channels of input and output.
        heads: parallel heads.
        causal: position ``t`` sees only positions up to ``t``.
        group_size: positions in a group, even; a quarter of the length, rounded up to even, when None.
        shift_fraction: share of the heads, the last ones, that are shifted; 0 gives plain groups.
        wrap: roll the shifted heads around the ends, as the released code does.
        grouped: in training only, or always.
        **options: of :class:`~harken.attention.softmax.SoftmaxFamily`.

    Raises:
        InputError: a group of odd size or below 2, a share outside [0, 1], an unknown ``grouped``.

    >>> layer = ShiftedAttention(dim=16, heads=4, causal=True)
    >>> layer(torch.randn(2, 64, 16)).shape
    torch.Size([2, 64, 16])
    """

    name: ClassVar[str] = "shifted"
    capabilities: ClassVar[Capabilities] = Capabilities(cross=False)
    state_type: ClassVar[type[tuple]] = KeyValueCache

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        group_size: int | None = None,
        shift_fraction: float = 0.5,
        wrap: bool = False,
        grouped: Grouped = "training",
        **options: Any,
    ):
        super().__init__(dim, heads, causal=causal, **options)
        if group_size is not None and (group_size < 2 or group_size % 2):
            raise InputError(f"group_size={group_size} must be even and at least 2: groups are shifted by half")
        if not 0 <= shift_fraction <= 1:
            raise InputError(f"shift_fraction={shift_fraction} must lie in [0, 1]")
        if grouped not in ("training", "always"):
            raise InputError(f"grouped='{grouped}' is unknown: 'training' or 'always'")
        self.group_size, self.wrap, self.grouped = group_size, wrap, grouped
        self.shifted_heads = round(shift_fraction * heads)
        self.sinks, self.sink_bidirectional = 0, False

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        if not self._in_groups:
            return local_attention(q, k, v, EVERYTHING, causal=self.causal, mask=mask)
        return shifted_attention(
            q,
            k,
            v,
            group_size=self._group(q.shape[2]),
            shifted_heads=self.shifted_heads,
            wrap=self.wrap,
            sinks=self.sinks,
            sink_bidirectional=self.sink_bidirectional,
            causal=self.causal,
            mask=mask,
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        if not self._in_groups:
            return softmax_weights(q, k, allowed_pairs(q, k, causal=self.causal, mask=mask))
        allowed = shifted_pairs(
            q.shape[2],
            self.heads,
            group_size=self._group(q.shape[2]),
            shifted_heads=self.shifted_heads,
            wrap=self.wrap,
            sinks=self.sinks,
            sink_bidirectional=self.sink_bidirectional,
            causal=self.causal,
        ).to(q.device)[None]
        return softmax_weights(q, k, allowed if mask is None else allowed & mask[:, None, None])

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple:
        self._check_full()
        return super().init_state(batch_size, device=device, dtype=dtype)

    def step(
        self,
        x: Float[Tensor, "batch time dim"],
        state: State,
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
    ) -> tuple[Float[Tensor, "batch time dim"], State]:
        """The next positions of a stream, which is one of full attention: equals ``forward`` in ``eval`` mode."""
        self._check_full()
        return super().step(x, state, mask=mask)

    def mix_cost(self, batch: int, time: int) -> Cost:
        """In the present mode: groups in training, all pairs in ``eval``."""
        if not self._in_groups:
            return self._mix_cost(batch, time, 4 * batch * time * time * self.heads * self.head_dim)
        flops, group, straight = 0, self._group(time), self.heads - self.shifted_heads
        for heads, shift in ((straight, 0), (self.shifted_heads, 0 if self.wrap else group // 2)):
            span = Span("block", group, self.sinks, shift)
            flops += local_flops(span, time, heads * self.head_dim, causal=self.causal)
        if self.sinks and (self.sink_bidirectional or not self.causal):
            flops += 4 * min(self.sinks, time) * time * self.heads * self.head_dim
        return self._mix_cost(batch, time, batch * flops)

    @property
    def _in_groups(self) -> bool:
        return self.training or self.grouped == "always"

    def _group(self, time: int) -> int:
        return self.group_size or max(2, 2 * -(-time // 8))

    def _check_full(self) -> None:
        if self.causal and self.grouped == "always":
            raise CapabilityError(
                f"a stream of '{self.name}' is one of full attention: build it with grouped='training'"
            )


class SinkShiftedAttention(ShiftedAttention):
    """SF-Attn: shifted groups of which only a quarter of the heads are shifted, and first tokens that all see.

    Of the second half of the heads, which S2-Attn shifts, one half is left in place; every position also meets the
    first ``sinks`` positions, in one softmax. The paper's pattern is two-way: the sinks also meet every position. A
    causal layer keeps its order instead, unless ``sink_bidirectional=True`` (what the first positions give then
    depends on the whole sequence). The paper's authors have not released this part; the order of heads is our reading.

    In ``eval`` mode full attention, as :class:`ShiftedAttention`.

    Args:
        dim: channels of input and output.
        heads: parallel heads.
        causal: position ``t`` sees only positions up to ``t``.
        sinks: first positions that all see.
        sink_bidirectional: in a causal layer, too, the sinks see all.
        group_size: positions in a group, even; a quarter of the length, rounded up to even, when None.
        shift_fraction: share of the heads, the last ones, that are shifted.
        grouped: in training only, or always.
        **options: of :class:`~harken.attention.softmax.SoftmaxFamily`.

    >>> layer = SinkShiftedAttention(dim=16, heads=4, causal=True, group_size=8, grouped="always")
    >>> layer.weights(torch.randn(1, 32, 16))[0, 0, 20].nonzero().squeeze().tolist()
    [0, 1, 2, 3, 16, 17, 18, 19, 20]
    """

    name: ClassVar[str] = "sink-shifted"

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        sinks: int = 4,
        sink_bidirectional: bool = False,
        group_size: int | None = None,
        shift_fraction: float = 0.25,
        grouped: Grouped = "training",
        **options: Any,
    ):
        if "wrap" in options:
            raise TypeError(f"'{self.name}' has no option wrap: groups that wrap have no first positions to be sinks")
        super().__init__(
            dim,
            heads,
            causal=causal,
            group_size=group_size,
            shift_fraction=shift_fraction,
            grouped=grouped,
            **options,
        )
        if sinks < 0:
            raise InputError(f"sinks={sinks} must be at least 0")
        self.sinks, self.sink_bidirectional = sinks, sink_bidirectional


def shifted_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads time head_dim"],
    v: Float[Tensor, "batch kv_heads time value_dim"],
    *,
    group_size: int,
    shifted_heads: int,
    wrap: bool = False,
    sinks: int = 0,
    sink_bidirectional: bool = False,
    causal: bool = False,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Softmax attention inside groups, those of the last ``shifted_heads`` heads shifted by half a group.

    See :class:`ShiftedAttention` and, for the sinks, :class:`SinkShiftedAttention`. Time and memory are linear in
    length for a given group size. With ``wrap`` an odd group is rolled back one position short, as is the released one.

    >>> q = k = v = torch.randn(1, 4, 12, 8)
    >>> shifted_attention(q, k, v, group_size=4, shifted_heads=2, causal=True).shape
    torch.Size([1, 4, 12, 8])
    """
    if k.shape[1] != q.shape[1]:
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
    straight, half = q.shape[1] - shifted_heads, group_size // 2
    parts = []
    if straight:
        span = Span("block", group_size, sinks)
        some = [x[:, :straight] for x in (q, k, v)]
        parts.append(local_attention(some[0], some[1], some[2], span, causal=causal, mask=mask))
    if shifted_heads:
        some = [x[:, straight:] for x in (q, k, v)]
        if wrap:
            some = [x.roll(half - group_size, 2) for x in some]
            rolled = None if mask is None else mask.roll(half - group_size, 1)
            span = Span("block", group_size)
            parts.append(local_attention(some[0], some[1], some[2], span, causal=causal, mask=rolled).roll(half, 2))
        else:
            span = Span("block", group_size, sinks, half)
            parts.append(local_attention(some[0], some[1], some[2], span, causal=causal, mask=mask))
    mixed = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if sinks and (sink_bidirectional or not causal):
        seeing_all = local_attention(q[:, :, :sinks], k, v, EVERYTHING, mask=mask)
        mixed = torch.cat((seeing_all, mixed[:, :, sinks:]), 2)
    return mixed


def shifted_pairs(
    time: int,
    heads: int,
    *,
    group_size: int,
    shifted_heads: int,
    wrap: bool = False,
    sinks: int = 0,
    sink_bidirectional: bool = False,
    causal: bool = False,
) -> Bool[Tensor, "heads time time"]:
    """Which (query, key) pairs :func:`shifted_attention` lets meet, head by head."""
    place = torch.arange(time)
    straight = Span("block", group_size, sinks).allowed(place, place, causal=causal)
    shifted = Span("block", group_size, sinks, group_size // 2).allowed(place, place, causal=causal)
    if wrap:
        shifted = Span("block", group_size).allowed(place, place, causal=causal)
        shifted = shifted.roll((group_size // 2, group_size // 2), (0, 1))
    allowed = torch.stack([straight] * (heads - shifted_heads) + [shifted] * shifted_heads)
    if sinks and (sink_bidirectional or not causal):
        allowed[:, :sinks] = True
    return allowed


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    group_size: int,
    shifted_heads: int,
    wrap: bool = False,
    sinks: int = 0,
    causal: bool,
    mask: Tensor | None = None,
) -> Tensor:
    """One query of one head at a time, over the keys of its group and the sinks."""
    heads, time = q.shape[1], q.shape[2]
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(heads):
            shift = group_size // 2 if h >= heads - shifted_heads else 0
            # where a position stands after the roll, or after the shorter first group
            place = [(i - shift) % time if wrap else i + (group_size - shift) % group_size for i in range(time)]
            for i in range(time):
                seen = []
                for j in range(time):
                    near = place[i] // group_size == place[j] // group_size
                    if causal:
                        near = (near and place[j] <= place[i]) or (j < sinks and j <= i)
                    else:
                        near = near or j < sinks or i < sinks
                    if near and (mask is None or bool(mask[b, j])):
                        seen.append(j)
                scores = k[b, h, seen] @ q[b, h, i] / q.shape[-1] ** 0.5
                out[b, h, i] = scores.softmax(0) @ v[b, h, seen]
    return out
