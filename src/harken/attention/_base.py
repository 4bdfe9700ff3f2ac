"""The contract that every attention mechanism honours, and the parts that most of them share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention._growing import grown, joined_masks
from harken.errors import CapabilityError, InputError
from harken.observation import emit

State = TypeVar("State", bound=tuple)


@dataclass(frozen=True)
class Cost:
    """What one forward pass asks of a machine; costs add up with ``+``.

    ``flops`` counts the matrix products, a multiply and an add as two, as ``torch.utils.flop_counter`` does; ``bytes``
    is the traffic of weights, inputs, outputs and what must be stored between them, each read or written once;
    ``state`` is the bytes a stream carries after that many positions.
    """

    flops: int
    bytes: int
    state: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.bytes + other.bytes, self.state + other.state)


@dataclass(frozen=True)
class Capabilities:
    """What a mechanism can do. What is False raises :class:`harken.errors.CapabilityError` when asked for.

    ``causal``/``bidirectional``: which orders exist; ``cross``: takes a ``context``; ``step``: can stream (causal form
    only); ``constant_state``: the stream's state does not grow; ``weights``: has an explicit or implied matrix;
    ``normalized``: the rows of that matrix sum to 1; ``grid``: needs ``grid=(H, W)``; ``block_causal``: positions come
    column by column of that grid, a column is one moment, and causal order is that of the columns: the positions of one
    column see each other, and a stream takes whole columns (:meth:`Attention.init_state` takes their number of
    ``channels``); ``lookahead``: without ``causal`` it sees at most ``layer.lookahead`` positions ahead, so that it
    streams in that form too, a little behind (:meth:`Attention.flush`).
    """

    causal: bool = True
    bidirectional: bool = True
    cross: bool = True
    step: bool = True
    constant_state: bool = False
    weights: bool = True
    normalized: bool = True
    grid: bool = False
    block_causal: bool = False
    lookahead: bool = False


class Attention(nn.Module, ABC):
    """A layer that mixes positions: ``(batch, time, dim)`` to the same shape.

    Subclasses set ``name`` and ``capabilities`` and implement :meth:`forward` and :meth:`cost`, and, where they can,
    :meth:`init_state`, :meth:`step` and :meth:`weights`. A capability that is asked for and missing raises at
    construction. What is promised to whoever calls:

    - causal means causal: output ``t`` does not depend on positions after ``t``;
    - masks are boolean, ``(batch, keys)``, True where a position is real: a padded position never changes the output
      at a real one, and what comes out at a padded one is finite and meaningless;
    - ``step`` over any cut of a sequence equals ``forward`` over the whole, up to rounding; one that looks ahead
      returns what can be known by then, in order and perhaps nothing, and :meth:`flush` the rest;
    - a state is a ``NamedTuple`` of tensors whose first axis is the batch (or of such tuples), so that
      :func:`select_state` and :func:`move_state` work on all of them;
    - the return value never changes shape: what else there is to see is emitted (:func:`harken.observation.emit`).

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.

    Raises:
        CapabilityError: the mechanism has no form of that order.
        InputError: ``dim`` does not divide by ``heads``.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    state_type: ClassVar[type[tuple]] = tuple

    def __init__(self, dim: int, heads: int, *, causal: bool = False):
        super().__init__()
        if dim < 1 or heads < 1 or dim % heads:
            raise InputError(f"dim={dim} must be a positive multiple of heads={heads}: choose heads that divide dim")
        if causal and not self.capabilities.causal:
            raise CapabilityError(
                f"'{self.name}' has no causal form; harken.list_attention(causal=True) names those with one"
            )
        if not causal and not self.capabilities.bidirectional:
            raise CapabilityError(f"'{self.name}' is causal only: pass causal=True")
        self.dim, self.heads, self.causal = dim, heads, causal
        self.head_dim = dim // heads

    @abstractmethod
    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Mix all positions at once.

        Args:
            x: the positions that ask.
            context: the positions that answer (cross-attention); ``x`` itself when None.
            mask: True where a position of ``context`` (or ``x``) is real.
            grid: ``(H, W)`` of image tokens, for mechanisms that live on a grid; the others take no notice.
        """

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> tuple:
        """What a stream carries before its first position.

        Raises:
            CapabilityError: the mechanism cannot stream, or was not built causal.
        """
        raise self._lacks_step()

    def step(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        """The next positions of a stream, one or a chunk: equals ``forward``, position by position.

        Raises:
            CapabilityError: the mechanism cannot stream, or was not built causal.
            InputError: the state is another mechanism's, or of another batch.
        """
        raise self._lacks_step()

    def flush(self, state: State) -> Float[Tensor, "batch waiting dim"]:
        """The outputs that still wait when a stream ends, for mechanisms with a ``lookahead``.

        Raises:
            CapabilityError: nothing ever waits: the mechanism does not look ahead.
        """
        raise CapabilityError(f"'{self.name}' does not look ahead: its stream has nothing to flush")

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        """The attention matrix, explicit or implied: row ``t`` says how position ``t`` mixes the values."""
        raise CapabilityError(f"'{self.name}' has no attention matrix")

    @abstractmethod
    def cost(self, batch: int, time: int) -> Cost:
        """FLOPs, bytes moved and state size of one forward pass over ``(batch, time, dim)``."""

    def extra_repr(self) -> str:
        """The three numbers every mechanism has."""
        return f"dim={self.dim}, heads={self.heads}, causal={self.causal}"

    def _lacks_step(self) -> CapabilityError:
        if self.capabilities.step and not self.causal:
            return CapabilityError(f"only a causal '{self.name}' can stream: build it with causal=True")
        return CapabilityError(f"'{self.name}' cannot stream; harken.list_attention(step=True) names those that can")

    def _check(
        self, x: Tensor, context: Tensor | None, mask: Tensor | None, grid: tuple[int, int] | None = None
    ) -> None:
        """Raise a one-line error where shapes do not fit; cheap enough for every forward pass."""
        if x.ndim != 3 or x.shape[-1] != self.dim:
            raise InputError(f"expected x of shape (batch, time, {self.dim}), got {tuple(x.shape)}")
        keys = x
        if context is not None:
            if not self.capabilities.cross:
                raise CapabilityError(f"'{self.name}' has no cross-attention: leave context out")
            if self.causal:
                raise CapabilityError("cross-attention has no causal order: build the layer with causal=False")
            if context.ndim != 3 or context.shape[-1] != self.dim or context.shape[0] != x.shape[0]:
                expected = f"({x.shape[0]}, time, {self.dim})"
                raise InputError(f"expected context of shape {expected}, got {tuple(context.shape)}")
            keys = context
        if x.shape[1] == 0 or keys.shape[1] == 0:
            raise InputError("attention over no positions: time must be at least 1")
        if mask is not None and (mask.dtype != torch.bool or mask.shape != keys.shape[:2]):
            expected = f"boolean mask of shape {tuple(keys.shape[:2])} (True = real)"
            raise InputError(f"expected a {expected}, got {mask.dtype} {tuple(mask.shape)}")
        if self.capabilities.grid and (grid is None or grid[0] * grid[1] != x.shape[1]):
            raise InputError(f"'{self.name}' needs grid=(H, W) with H * W = {x.shape[1]} positions, got {grid}")

    def _check_stream(self, x: Tensor, state: tuple) -> None:
        """Raise where a stream cannot go on: not causal, a wrong shape, a state of another mechanism or batch."""
        if not self.causal and not self.capabilities.lookahead:
            raise self._lacks_step()
        self._check(x, None, None, (1, x.shape[1]))  # a state knows its own grid
        if not isinstance(state, self.state_type):
            raise InputError(f"expected a state of '{self.name}', got {type(state).__name__}: make one with init_state")
        sizes = {part.shape[0] for part in _tensors(state)}
        if sizes - {x.shape[0]}:
            raise InputError(
                f"the state is of a batch of {min(sizes)}, x of {x.shape[0]}: use select_state or init_state"
            )


class ProjectedAttention(Attention):
    """Base of mechanisms that work on projected queries, keys and values, ``(batch, heads, time, head_dim)`` each.

    Holds the projections; a subclass says how queries, keys and values mix (:meth:`mix`), what matrix that implies
    (:meth:`mix_weights`), what it costs (:meth:`mix_cost`) and, if it can stream, :meth:`init_state` and
    :meth:`mix_step`. ``in_proj`` stacks q, k and v as ``torch.nn.MultiheadAttention`` does in ``in_proj_weight``, and
    both start from the same distributions, so weights move between the two as they are.
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, bias: bool = True):
        super().__init__(dim, heads, causal=causal)
        self.in_proj = nn.Linear(dim, 3 * dim, bias=bias)
        self.out_proj = nn.Linear(dim, dim, bias=bias)
        nn.init.xavier_uniform_(self.in_proj.weight)
        if bias:
            nn.init.zeros_(self.in_proj.bias)
            nn.init.zeros_(self.out_proj.bias)

    @abstractmethod
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Values mixed for each query: all three ``(batch, heads, time, head_dim)``; mask ``(batch, keys)``."""

    @abstractmethod
    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """The matrix ``(batch, heads, time, keys)`` that :meth:`mix` applies, explicit or implied."""

    @abstractmethod
    def mix_cost(self, batch: int, time: int) -> Cost:
        """What :meth:`mix` costs, without the projections."""

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        """:meth:`mix` for the next positions of a stream, with the state after them."""
        raise self._lacks_step()

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        self._check(x, context, mask, grid)
        q, k, v = self.project(x, context)
        emit(self, "weights", lambda: self.mix_weights(q, k, mask))
        return self.merge(self.mix(q, k, v, mask))

    def step(self, x: Float[Tensor, "batch time dim"], state: State) -> tuple[Float[Tensor, "batch time dim"], State]:
        self._check_stream(x, state)
        mixed, state = self.mix_step(*self.project(x), state)
        return self.merge(mixed), state

    def weights(
        self,
        x: Float[Tensor, "batch time dim"],
        context: Float[Tensor, "batch context dim"] | None = None,
        *,
        mask: Bool[Tensor, "batch keys"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch heads time keys"]:
        self._check(x, context, mask, grid)
        q, k, _ = self.project(x, context)
        return self.mix_weights(q, k, mask)

    def cost(self, batch: int, time: int) -> Cost:
        """The two projections and :meth:`mix_cost`."""
        weights = sum(parameter.numel() for parameter in self.parameters())
        # x in, q k v out; the mixed values in, y out
        moved = 6 * batch * time * self.dim + weights
        projections = Cost(flops=8 * batch * time * self.dim**2, bytes=self._item_size * moved)
        return projections + self.mix_cost(batch, time)

    def project(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``(batch, heads, time, head_dim)``; views of one product, so nothing is copied."""
        batch, time, _ = x.shape
        if context is None:
            q, k, v = self.in_proj(x).view(batch, time, 3, self.heads, self.head_dim).unbind(2)
        else:
            parts = (self.dim, 2 * self.dim)
            weight_q, weight_kv = self.in_proj.weight.split(parts)
            bias_q, bias_kv = (None, None) if self.in_proj.bias is None else self.in_proj.bias.split(parts)
            q = nn.functional.linear(x, weight_q, bias_q).view(batch, time, self.heads, self.head_dim)
            kv = nn.functional.linear(context, weight_kv, bias_kv)
            k, v = kv.view(batch, context.shape[1], 2, self.heads, self.head_dim).unbind(2)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def merge(self, mixed: Tensor) -> Tensor:
        """Heads side by side again, through the output projection."""
        return self.out_proj(mixed.transpose(1, 2).flatten(2))

    @property
    def _item_size(self) -> int:
        return self.in_proj.weight.element_size()


class KeyValueCache(NamedTuple):
    """What a stream of a softmax-family mechanism carries: all keys and values, ``(batch, heads, time, head_dim)``.

    ``real``, ``(batch, time)``, is False at padding; None while there has been none.
    """

    keys: Tensor
    values: Tensor
    real: Tensor | None = None

    def append(self, keys: Tensor, values: Tensor, real: Tensor | None = None) -> KeyValueCache:
        """The cache with further positions behind its own; this one stays as it was."""
        real = joined_masks(self.real, self.keys, real, keys)
        return KeyValueCache(grown(self.keys, keys), grown(self.values, values), real)


def select_state(state: State, index: Int[Tensor, " chosen"]) -> State:
    """The state of the batch items ``index``, in that order: how beams are kept, dropped and doubled.

    >>> state = KeyValueCache(torch.zeros(2, 1, 5, 4), torch.zeros(2, 1, 5, 4))
    >>> select_state(state, torch.tensor([1, 1, 0])).keys.shape
    torch.Size([3, 1, 5, 4])
    """
    return _map_state(state, lambda tensor: tensor.index_select(0, index.to(tensor.device)))


def move_state(state: State, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
    """The state on another device or in another precision (integers and booleans keep their type)."""
    return _map_state(
        state, lambda tensor: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    )


def precise(x: Tensor) -> Tensor:
    """In float32 at least, in which sums over a long past stay right."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def squarest_grid(time: int, tallest: int | None = None) -> tuple[int, int]:
    """The grid ``(H, W)`` of ``time`` tokens, ``H <= W``, that is nearest to a square, no taller than ``tallest``.

    >>> squarest_grid(196), squarest_grid(12), squarest_grid(7), squarest_grid(196, tallest=8)
    ((14, 14), (3, 4), (1, 7), (7, 28))
    """
    most = math.isqrt(time) if tallest is None else min(tallest, time)
    height = next(side for side in range(most, 0, -1) if time % side == 0)
    return height, time // height


def _map_state(state: State, change: Callable[[Tensor], Tensor]) -> State:
    """``change`` applied to every tensor of a state, and of the states inside it; other parts stay."""
    parts = [
        change(part) if isinstance(part, Tensor) else _map_state(part, change) if isinstance(part, tuple) else part
        for part in state
    ]
    make: Any = type(state)
    return make(*parts) if hasattr(state, "_fields") else make(parts)


def _tensors(state: tuple) -> list[Tensor]:
    return [
        tensor
        for part in state
        for tensor in (_tensors(part) if isinstance(part, tuple) else [part])
        if isinstance(tensor, Tensor)
    ]
