"""What a stream of a softmax-family mechanism keeps: everything, a window with sinks, or heavy hitters.

A policy is given to a layer as its option ``cache``; it changes what ``step`` remembers, never what ``forward``
computes. Sinks with a window are arXiv 2309.17453's, heavy hitters those of H2O (2306.14048).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention._base import KeyValueCache
from harken.attention._growing import grown, joined_masks, latest
from harken.attention._local import EVERYTHING, Span, local_attention
from harken.errors import InputError

# queries whose weights over all keys are held at once, when heavy hitters read a prompt
_ROWS = 256


class CachePolicy(ABC):
    """What a stream keeps of its past. Subclasses hold sizes only; the tensors are in the state."""

    state_type: ClassVar[type[tuple]]

    @abstractmethod
    def init_state(self, empty: Tensor) -> Any:
        """The state before the first position, from an ``empty`` tensor ``(batch, kv_heads, 0, head_dim)``."""

    @abstractmethod
    def step(self, q: Tensor, k: Tensor, v: Tensor, state: Any, mask: Tensor | None = None) -> tuple[Tensor, Any]:
        """The next positions' mixed values and the state after them; ``mask`` ``(batch, time)``, False at padding."""

    @abstractmethod
    def seen(self, state: Any) -> int | Tensor:
        """Positions the stream has had so far, ``(batch,)`` where it is a tensor."""

    @abstractmethod
    def size(self, time: int, batch: int, kv_heads: int, head_dim: int, item_size: int) -> int:
        """Bytes of the state after ``time`` positions."""


@dataclass(frozen=True)
class FullCache(CachePolicy):
    """All keys and values, in a buffer that doubles."""

    state_type: ClassVar[type[tuple]] = KeyValueCache

    def init_state(self, empty: Tensor) -> KeyValueCache:
        return KeyValueCache(empty, empty)

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: KeyValueCache, mask: Tensor | None = None
    ) -> tuple[Tensor, KeyValueCache]:
        state = state.append(k, v, mask)
        return local_attention(q, state.keys, state.values, EVERYTHING, causal=True, mask=state.real), state

    def seen(self, state: KeyValueCache) -> int:
        return state.keys.shape[2]

    def size(self, time: int, batch: int, kv_heads: int, head_dim: int, item_size: int) -> int:
        return 2 * batch * kv_heads * time * head_dim * item_size


class SpanState(NamedTuple):
    """What a stream within a span carries: the keys and values that a later query may still meet.

    Shape:
        - keys, values: ``(batch, kv_heads, kept, head_dim)``, sinks first
        - time: ``(batch,)``, positions so far
        - real: ``(batch, kept)``, False at padding; None while there has been none
    """

    keys: Tensor
    values: Tensor
    time: Tensor
    real: Tensor | None = None


@dataclass(frozen=True)
class SpanCache(CachePolicy):
    """The keys within a :class:`~harken.attention._local.Span`, so that the state is bounded and ``step`` is exact.

    A window with sinks may grow by ``slack`` positions before they are dropped, since that copies the cache.
    """

    span: Span
    slack: int = 1

    state_type: ClassVar[type[tuple]] = SpanState

    def init_state(self, empty: Tensor) -> SpanState:
        return SpanState(empty, empty, empty.new_zeros(empty.shape[0], dtype=torch.long))

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: SpanState, mask: Tensor | None = None
    ) -> tuple[Tensor, SpanState]:
        keys, values = grown(state.keys, k), grown(state.values, v)
        real = joined_masks(state.real, state.keys, mask, k)
        mixed = local_attention(q, keys, values, self.span, causal=True, mask=real)
        kept, sinks = self.span.keeps(keys.shape[2], self.slack), self.span.sinks
        if real is not None:
            real = _kept(real[:, None, :, None], sinks, kept)[:, 0, :, 0]
        after = SpanState(_kept(keys, sinks, kept), _kept(values, sinks, kept), state.time + q.shape[2], real)
        return mixed, after

    def seen(self, state: SpanState) -> Tensor:
        return state.time

    def size(self, time: int, batch: int, kv_heads: int, head_dim: int, item_size: int) -> int:
        return batch * (2 * kv_heads * self.span.keeps(time, self.slack) * head_dim * item_size + 8)


def sink_window(window: int, sinks: int = 4, slack: int = 64) -> SpanCache:
    """Keep the last ``window`` positions and the first ``sinks``: a stream of any length in a bounded state.

    A position meets itself, the ``window - 1`` before it and the sinks; keys keep the rotary positions they came with.
    The state may hold ``slack`` positions more, which are met no longer: dropping them copies the cache.

    Raises:
        InputError: a window below 2 positions, or a slack below 1.

    >>> sink_window(6, sinks=2).span.allowed(torch.tensor([9]), torch.arange(10), causal=True).int()
    tensor([[1, 1, 0, 0, 1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    """
    if window < 2:
        raise InputError(f"window={window} must be at least 2 positions")
    if slack < 1:
        raise InputError(f"slack={slack} must be at least 1 position")
    return SpanCache(Span("window", window - 1, sinks), slack if sinks else 1)


class HeavyHitterState(NamedTuple):
    """What a stream with heavy hitters carries, in the order of positions; each head has its own.

    Shape:
        - keys, values: ``(batch, kv_heads, kept, head_dim)``
        - scores: ``(batch, kv_heads, kept)``, the weight each key has been given so far, in float32
        - positions: ``(batch, kv_heads, kept)``, where each key stood; -1 for padding
        - time: ``(batch,)``, positions so far
    """

    keys: Tensor
    values: Tensor
    scores: Tensor
    positions: Tensor
    time: Tensor


@dataclass(frozen=True)
class HeavyHitters(CachePolicy):
    """H2O: keep the ``recent`` last keys, and of the older ones those that have drawn the most attention.

    A key's score is the sum of the softmax weights given to it by all queries so far (and by all query heads that share
    it). What falls out never comes back. A chunk of positions is a prompt: attention inside it, and to what is kept, is
    full; then the cache is cut. While no more than ``heavy + recent`` positions have come, ``step`` equals ``forward``.

    Args:
        heavy: older keys to keep in each head.
        recent: last keys to keep.
        slack: positions by which the cache may grow before it is cut again: cutting costs a copy of the cache.
        probation: leave the key that has just grown too old for ``recent`` out of one step, after which it competes
            with the heavy ones: what the authors' simulation does. Needs ``slack=1``.

    Raises:
        InputError: a size is too small.
    """

    heavy: int
    recent: int
    slack: int = 16
    probation: bool = False

    state_type: ClassVar[type[tuple]] = HeavyHitterState

    def __post_init__(self) -> None:
        if self.heavy < 0 or self.recent < 1 or self.slack < 1:
            raise InputError(
                f"heavy={self.heavy}, recent={self.recent}, slack={self.slack}: expected at least 0, 1 and 1 positions"
            )
        if self.probation and self.slack != 1:
            raise InputError(f"probation=True needs slack=1, got {self.slack}")

    @classmethod
    def of_prompt(cls, time: int, heavy: float = 0.1, recent: float = 0.1, **options: Any) -> HeavyHitters:
        """Budgets as shares of a prompt's length, rounded down, as the paper gives them."""
        return cls(int(heavy * time), int(recent * time), **options)

    def init_state(self, empty: Tensor) -> HeavyHitterState:
        scores = empty[..., 0].float()
        return HeavyHitterState(empty, empty, scores, scores.long(), empty.new_zeros(empty.shape[0], dtype=torch.long))

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: HeavyHitterState, mask: Tensor | None = None
    ) -> tuple[Tensor, HeavyHitterState]:
        batch, kv_heads, time, _ = k.shape
        positions, allowed = self.met(state, time, mask)
        keys, values = grown(state.keys, k), grown(state.values, v)
        mixed, drawn = attend_and_score(q, keys, values, allowed)
        scores = torch.cat((state.scores, state.scores.new_zeros(batch, kv_heads, time)), 2) + drawn
        after = HeavyHitterState(keys, values, scores, positions, state.time + time)
        return mixed, self._cut(after)

    def met(self, state: HeavyHitterState, time: int = 1, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Positions of the kept keys and the next ``time``, and which of them the next query may meet.

        Both ``(batch, kv_heads, kept + time)``; order among the next ``time`` is not part of it.
        """
        kv_heads, held = state.positions.shape[1:]
        coming = state.time[:, None] + torch.arange(time, device=state.time.device)
        coming = coming if mask is None else coming.masked_fill(~mask, -1)
        positions = torch.cat((state.positions, coming[:, None].expand(-1, kv_heads, -1)), 2)
        allowed = positions >= 0
        if self.probation and time == 1 and held >= self.heavy + self.recent:
            place = torch.arange(held + 1, device=positions.device) == held - self.recent
            allowed = allowed & ~(place & (state.time > self.heavy + self.recent)[:, None])[:, None]
        return positions, allowed

    def seen(self, state: HeavyHitterState) -> Tensor:
        return state.time

    def size(self, time: int, batch: int, kv_heads: int, head_dim: int, item_size: int) -> int:
        return batch * (kv_heads * self._keeps(time) * (2 * head_dim * item_size + 12) + 8)

    def _keeps(self, time: int) -> int:
        beyond = time - self.heavy - self.recent
        return time if beyond < self.slack else self.heavy + self.recent + beyond % self.slack

    def _cut(self, state: HeavyHitterState) -> HeavyHitterState:
        held = state.keys.shape[2]
        keep = self._keeps(held)
        if keep == held:
            return state
        older = held - self.recent
        merit = state.scores[..., :older].masked_fill(state.positions[..., :older] < 0, -1.0)
        heavy = merit.topk(keep - self.recent, -1).indices.sort(-1).values
        recent = torch.arange(older, held, device=heavy.device).expand(*heavy.shape[:2], -1)
        chosen = torch.cat((heavy, recent), 2)
        wide = chosen[..., None].expand(-1, -1, -1, state.keys.shape[3])
        return HeavyHitterState(
            state.keys.gather(2, wide),
            state.values.gather(2, wide),
            state.scores.gather(2, chosen),
            state.positions.gather(2, chosen),
            state.time,
        )


def parse_cache(text: str) -> CachePolicy:
    """A policy from its name and sizes: ``full``, ``window-WINDOW-SINKS``, ``heavy-HEAVY-RECENT``.

    Raises:
        InputError: no such policy, or sizes that it refuses.

    >>> parse_cache("heavy-32-16")
    HeavyHitters(heavy=32, recent=16, slack=16, probation=False)
    """
    name, *sizes = text.split("-")
    known: dict[str, tuple[int, Callable[..., CachePolicy]]] = {
        "full": (0, FullCache),
        "window": (2, sink_window),
        "heavy": (2, HeavyHitters),
    }
    if name not in known or len(sizes) != known[name][0] or not all(size.isdecimal() for size in sizes):
        raise InputError(f"no cache '{text}': full, window-WINDOW-SINKS or heavy-HEAVY-RECENT, such as heavy-32-32")
    return known[name][1](*map(int, sizes))


def use_cache(model: nn.Module, policy: CachePolicy | str) -> None:
    """Let every causal layer of the softmax family in a model keep what a policy keeps; its weights stay.

    Args:
        model: streams that have begun go on with their old states no longer: begin new ones.
        policy: or its name, as :func:`parse_cache` reads it.

    Raises:
        InputError: no such policy, or no layer that could use it.
    """
    policy = parse_cache(policy) if isinstance(policy, str) else policy
    layers = [m for m in model.modules() if isinstance(getattr(m, "cache", None), CachePolicy) and m.causal]
    if not layers:
        raise InputError("no layer of this model keeps keys and values: a cache is for causal softmax attention")
    for layer in layers:
        layer.use_cache(policy)  # type: ignore[operator]


def _kept(x: Tensor, sinks: int, length: int) -> Tensor:
    """The first ``sinks`` positions and the last of the others, ``length`` in all."""
    if length == x.shape[2] or not sinks:
        return latest(x, length)
    return torch.cat((x[:, :, :sinks], x[:, :, x.shape[2] - (length - sinks) :]), 2)


def attend_and_score(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch kv_heads keys head_dim"],
    v: Float[Tensor, "batch kv_heads keys value_dim"],
    real: Bool[Tensor, "batch kv_heads keys"],
) -> tuple[Float[Tensor, "batch heads time value_dim"], Float[Tensor, "batch kv_heads keys"]]:
    """Causal attention of a stream's last ``time`` queries, and the weight that each key drew, summed over queries.

    Rows go in lots, so that no ``time x keys`` matrix is held. Queries at padding draw nothing.
    """
    kv_heads, time, keys = k.shape[1], q.shape[2], k.shape[2]
    drawn = torch.zeros(q.shape[0], kv_heads, keys, device=q.device)
    mixed = []
    for start in range(0, time, _ROWS):
        rows = q[:, :, start : start + _ROWS].unflatten(1, (kv_heads, -1))  # query heads that share a key head
        # keys later than the last of these queries draw nothing
        ahead = keys - time + start + rows.shape[3]
        scores = (rows @ k[:, :, None, :ahead].transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        allowed = real[:, :, None, None, :ahead]
        if rows.shape[3] > 1:
            triangle = torch.ones(rows.shape[3], ahead, dtype=torch.bool, device=q.device).tril(ahead - rows.shape[3])
            allowed = allowed & triangle
        # the lowest finite score, not -inf, so that a row of padding stays finite
        weights = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~allowed, 0.0)
        asking = real[:, :, None, None, ahead - rows.shape[3] : ahead].float()  # padding draws attention to nothing
        drawn = drawn + F.pad((asking @ weights).sum((2, 3)), (0, keys - ahead))
        mixed.append((weights.to(v.dtype) @ v[:, :, None, :ahead]).flatten(1, 2))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2), drawn
