"""Tensors that grow along time without being copied at every step: what key and value caches are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

# positions that the buffer of a short stream has room for
_SMALLEST_ROOM = 64


def joined_masks(past: Tensor | None, past_keys: Tensor, new: Tensor | None, new_keys: Tensor) -> Tensor | None:
    """The masks of two runs of keys behind one another, ``(batch, time)``; None is all real."""
    if past is None and new is None:
        return None
    parts = ((past, past_keys), (new, new_keys))
    masks = [keys.new_ones(keys.shape[::2], dtype=torch.bool) if mask is None else mask for mask, keys in parts]
    return torch.cat(masks, 1)


@dataclass
class _Room:
    """A buffer of which a prefix is in use; whoever ends where the prefix ends may go on in place."""

    buffer: Tensor
    used: int
    lock: Lock = field(default_factory=Lock)

    def claim(self, start: int, stop: int) -> bool:
        with self.lock:  # two streams may go on from one state, in two threads
            if self.used != start or stop > self.buffer.shape[2]:
                return False
            self.used = stop
            return True


# view of a buffer -> the buffer and where the view ends in it
_rooms: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def grown(
    past: Float[Tensor, "batch heads past dim"], new: Float[Tensor, "batch heads new dim"]
) -> Float[Tensor, "batch heads both dim"]:
    """``past`` and ``new`` one behind the other, as ``torch.cat`` on axis 2, but without copying the past every time.

    The result is a view of a buffer that doubles when it is full, so a stream of ``n`` steps copies ``O(n)``, not
    ``O(n^2)``. Only the first to go on from ``past`` writes into the buffer behind it; another (a stream that went
    back) finds the place taken and gets a buffer of its own, so no result ever changes under who holds it. Where the
    graph matters (gradients, ``torch.compile``), it is ``torch.cat``.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled():
        return torch.cat((past, new), 2)
    room, start = _rooms.get(past, (None, past.shape[2]))
    stop = start + new.shape[2]
    writable = room is not None and room.buffer.is_inference() <= torch.is_inference_mode_enabled()
    if room is None or not writable or past.dtype != new.dtype or not room.claim(start, stop):
        start, stop = past.shape[2], past.shape[2] + new.shape[2]
        capacity = max(2 * stop, _SMALLEST_ROOM)
        room = _Room(past.new_empty(*past.shape[:2], capacity, past.shape[3]), stop)
        room.buffer[:, :, :start] = past
    room.buffer[:, :, start:stop] = new
    whole = room.buffer[:, :, stop - past.shape[2] - new.shape[2] : stop]
    _rooms[whole] = (room, stop)
    return whole


def latest(grown: Shaped[Tensor, "batch heads time dim"], length: int) -> Shaped[Tensor, "batch heads last dim"]:
    """The last ``length`` positions of what :func:`grown` returned, still able to grow in place.

    Copied when a far larger buffer would be kept alive for their sake.
    """
    if length == grown.shape[2]:
        return grown
    part = grown[:, :, grown.shape[2] - length :]
    known = None if torch.compiler.is_compiling() else _rooms.get(grown)
    if (grown if known is None else known[0].buffer).shape[2] > max(4 * length, _SMALLEST_ROOM):
        return part.clone()
    if known is not None:
        _rooms[part] = known
    return part
