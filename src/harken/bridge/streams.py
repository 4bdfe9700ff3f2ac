"""What a swapped layer keeps in the cache of ``transformers``: its own state, of constant size where it has one."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from harken.attention import Attention, select_state
from harken.errors import CapabilityError


class Chunk(NamedTuple):
    """The next positions of a stream, as a swapped layer gets them.

    Shape:
        - x: ``(batch, time, dim)``
        - real: ``(batch, time)``, False at padding; None when there is none
        - turn: what the host turns queries and keys with, ``(1 or batch, time, ...)`` each; None where it does not
    """

    x: Tensor
    real: Tensor | None
    turn: tuple[Tensor, ...] | None

    def of(self, item: int, places: Tensor) -> Chunk:
        """One item of the batch, at some of its places."""
        turn = self.turn
        if turn is not None:
            turn = tuple(part[min(item, len(part) - 1), places][None] for part in turn)
        return Chunk(self.x[item, places][None], None, turn)

    def select(self, index: Tensor) -> Chunk:
        """Some items of the batch, in that order."""
        turn = self.turn
        if turn is not None:
            turn = tuple(part if len(part) == 1 else part[index] for part in turn)
        return Chunk(self.x[index], None if self.real is None else self.real[index], turn)


class StreamLayer(CacheLayerMixin):
    """One layer of a ``Cache`` that holds the state of a stream instead of keys and values.

    Padding is part of the state where the mechanism's ``step`` takes a mask. Where it takes none, items that are padded
    have streams of their own until their states have one shape again.
    """

    is_sliding = False

    def __init__(self, layer: Any):
        super().__init__()
        self.layer = layer
        self.length = 0
        self.state: Any = None
        self.items: list[Any] | None = None  # a state for each of the batch, while they cannot be one
        self.waiting: Chunk | None = None

    def defer(self, chunk: Chunk) -> None:
        """Take a first chunk whose outputs are known already; the state is made when somebody goes on from it."""
        self.waiting = Chunk(chunk.x.detach(), chunk.real, chunk.turn)
        self.length = chunk.x.shape[1]

    def advance(self, chunk: Chunk) -> Tensor:
        """The outputs of the next positions.

        Raises:
            CapabilityError: the mechanism cannot stream.
        """
        if not self.layer.steps:
            raise CapabilityError(f"'{self.layer.name}' cannot go on from a cache: pass use_cache=False")
        if self.waiting is not None:
            waiting, self.waiting = self.waiting, None
            with torch.no_grad():
                self._step(waiting)
        self.length += chunk.x.shape[1]
        return self._step(chunk)

    def _step(self, chunk: Chunk) -> Tensor:
        mechanism: Attention = self.layer.attention
        x, real, turn = chunk
        if self.state is None and self.items is None:
            self.state = mechanism.init_state(x.shape[0], device=x.device, dtype=x.dtype)
        padded = real is not None and not bool(real.all())
        if self.items is None and (not padded or self.layer.steps_with_mask):
            self.layer.turn_by(turn)
            step: Any = mechanism.step
            y, self.state = step(x, self.state, mask=real) if padded else step(x, self.state)
            return y
        if self.items is None:
            self.items = [_item(self.state, item) for item in range(x.shape[0])]
        y = torch.zeros_like(x)
        for item in range(x.shape[0]):
            places = torch.arange(x.shape[1], device=x.device)
            places = places if real is None else places[real[item]]
            if len(places):
                alone = chunk.of(item, places)
                self.layer.turn_by(alone.turn)
                out, self.items[item] = mechanism.step(alone.x, self.items[item])
                y[item, places] = out[0].to(y.dtype)
        self.state = _joined(self.items)
        self.items = None if self.state is not None else self.items
        return y

    # what a cache is asked by models and by generate()

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """The state starts with the first positions."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keys and values have no place here."""
        raise CapabilityError("this cache was filled by a swapped layer: start a new one after restore()")

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that a mask must speak of, and where they start."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Positions so far."""
        return self.length

    def get_max_length(self) -> int:
        """No end."""
        return -1

    def reset(self) -> None:
        """Back to before the first position."""
        self.length, self.state, self.items, self.waiting = 0, None, None, None

    def crop(self, tokens_to_remove: int) -> None:
        """A sum does not forget what was added."""
        if tokens_to_remove:
            raise CapabilityError("a swapped layer's state cannot go back: generate without an assistant model")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each item so many times, side by side."""
        batch = len(self.items) if self.items is not None else self._batch()
        if batch:
            self.batch_select_indices(torch.arange(batch).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Some items of the batch, in that order."""
        if self.waiting is not None:
            self.waiting = self.waiting.select(indices.to(self.waiting.x.device))
        if self.items is not None:
            self.items = [self.items[item] for item in indices.tolist()]
        elif self.state is not None:
            self.state = select_state(self.state, indices)

    def _batch(self) -> int:
        part = self.waiting if self.waiting is not None else self.state
        while part is not None and not isinstance(part, Tensor):
            part = part[0]
        return 0 if part is None else len(part)


def stream_layer(cache: Any, layer: Any) -> StreamLayer:
    """The place of a swapped layer in a cache, made if it is not there yet.

    Raises:
        CapabilityError: the cache has another layer's past in that place.
    """
    cache = getattr(cache, "self_attention_cache", cache)
    index = layer.layer_idx
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    found = cache.layers[index]
    if isinstance(found, StreamLayer) and found.layer is layer:
        return found
    if found.get_seq_length():
        raise CapabilityError("this cache was filled before the layer was swapped: start a new one")
    cache.layers[index] = StreamLayer(layer)
    return cache.layers[index]


def _item(state: Any, item: int) -> Any:
    return select_state(state, torch.tensor([item]))


def _joined(states: list[Any]) -> Any:
    """One state of a batch, or None where the parts differ in shape."""
    first = states[0]
    if isinstance(first, Tensor):
        same = all(state.shape == first.shape for state in states)
        return torch.cat(states) if same else None
    if not isinstance(first, tuple):
        return first
    parts = [_joined([state[place] for state in states]) for place in range(len(first))]
    if any(part is None and first[place] is not None for place, part in enumerate(parts)):
        return None
    make: Any = type(first)
    return make(*parts) if hasattr(first, "_fields") else make(parts)
