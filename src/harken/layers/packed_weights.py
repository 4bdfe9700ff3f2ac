"""Quantised weights as stored: each group's levels in so many bits as it has, and nothing between them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from harken.errors import CheckpointError
from harken.layers.diffq import DiffQConfig, Quantised, dequantise, index_width

MARK = "diffq"  # names the entry that says how all others are packed
_ENDING = ".diffq"
_AT_ONCE = 1 << 18  # groups


def pack(state: Mapping[str, Tensor], quantised: Mapping[str, Quantised], config: DiffQConfig) -> dict[str, Tensor]:
    """A state dictionary with the quantised tensors packed, ready for a safetensors file.

    A packed tensor ``name.diffq`` is bytes: its range (two float32), the width of an index, the groups' bits, less the
    least, in so many bits each, and the groups' levels: what :func:`harken.layers.diffq.stored_bits` counts, rounded up
    to a byte.

    Raises:
        CheckpointError: groups that do not fill whole bytes.
    """
    if config.group_size % 8:
        raise CheckpointError(f"groups of {config.group_size} weights do not fill whole bytes: use a multiple of 8")
    packed = {name: tensor for name, tensor in state.items() if name not in quantised}
    for name, found in quantised.items():
        packed[name + _ENDING] = torch.from_numpy(_pack_one(found, config))
    packed[MARK] = torch.tensor([config.group_size, config.min_bits, config.max_bits], dtype=torch.uint8)
    return packed


def is_packed(state: Mapping[str, object]) -> bool:
    """Whether :func:`pack` made it."""
    return MARK in state


def unpack(packed: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dictionary again, as far as levels tell it.

    Args:
        packed: what :func:`pack` made.
        expected: tensors of the shapes that are expected, such as a model's state on the meta device.

    Raises:
        CheckpointError: bytes too many or too few, or numbers of bits that cannot be.
    """
    mark = packed[MARK]
    if mark.dtype != torch.uint8 or mark.shape != (3,):
        raise CheckpointError("the packed weights are damaged: their description is unreadable")
    group_size, least, most = mark.tolist()
    if group_size % 8 or group_size < 8 or not 1 <= least < most <= 15:
        raise CheckpointError("the packed weights are damaged: their description is out of range")
    state = {}
    for name, tensor in packed.items():
        if name == MARK:
            continue
        own = name.removesuffix(_ENDING)
        if own == name:
            state[name] = tensor
            continue
        if own not in expected or tensor.dtype != torch.uint8 or tensor.dim() != 1:
            raise CheckpointError(f"'{name[:100]}' is unknown: the packed weights are of another model")
        shape = expected[own].shape
        found = _unpack_one(own, tensor.numpy(), shape.numel(), group_size, least, most)
        state[own] = dequantise(found).reshape(shape)
    return state


def _pack_one(found: Quantised, config: DiffQConfig) -> np.ndarray:
    bits = found.bits.cpu().numpy().astype(np.uint8)
    width = index_width(int(bits.max()), config.min_bits)
    span = np.array([float(found.low), float(found.high)], "<f4").view(np.uint8)
    levels = _level_bytes(found.levels.cpu().numpy().astype(np.uint16), bits)
    return np.concatenate((span, np.array([width], np.uint8), _index_bytes(bits - config.min_bits, width), levels))


def _index_bytes(index: np.ndarray, width: int) -> np.ndarray:
    return np.packbits(np.unpackbits(index[:, None], axis=1)[:, 8 - width :])


def _level_bytes(levels: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Group after group; a group of ``g`` levels of ``b`` bits fills ``g b / 8`` bytes."""
    each = bits.astype(np.int64) * (levels.shape[1] // 8)
    starts = np.concatenate(([0], np.cumsum(each)))
    made = np.empty(int(starts[-1]), np.uint8)
    for where, b, span in _runs(bits, each):
        planes = np.unpackbits(levels[where].astype(">u2").view(np.uint8), axis=1).reshape(len(where), -1, 16)
        made[starts[where, None] + span] = np.packbits(planes[:, :, 16 - b :].reshape(len(where), -1), axis=1)
    return made


def _levels_of(data: np.ndarray, bits: np.ndarray, group_size: int) -> np.ndarray:
    each = bits.astype(np.int64) * (group_size // 8)
    starts = np.concatenate(([0], np.cumsum(each)))
    levels = np.empty((len(bits), group_size), np.int32)
    for where, b, span in _runs(bits, each):
        planes = np.unpackbits(data[starts[where, None] + span], axis=1).reshape(len(where), group_size, b)
        wide = np.zeros((len(where), group_size, 16), np.uint8)
        wide[:, :, 16 - b :] = planes
        levels[where] = np.packbits(wide.reshape(len(where), -1), axis=1).view(">u2")
    return levels


def _runs(bits: np.ndarray, each: np.ndarray) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """Groups of equal bits, some at a time, with the bytes that each of them fills."""
    found = []
    for b in np.unique(bits):
        groups = np.flatnonzero(bits == b)
        for first in range(0, len(groups), _AT_ONCE):
            where = groups[first : first + _AT_ONCE]
            found.append((where, int(b), np.arange(each[where[0]])))
    return found


def _unpack_one(name: str, data: np.ndarray, numel: int, group_size: int, least: int, most: int) -> Quantised:
    damaged = CheckpointError(f"'{name}' is damaged: its packed bytes do not fit its shape")
    groups = numel // group_size
    if numel % group_size or groups == 0 or len(data) < 9:
        raise damaged
    low, high = np.frombuffer(data[:8].tobytes(), "<f4")
    width = int(data[8])
    after = 9 + -(-width * groups // 8)
    if width > index_width(most, least) or len(data) < after or not np.isfinite([low, high]).all():
        raise damaged
    planes = np.unpackbits(data[9:after])[: width * groups].reshape(groups, width)
    index = np.zeros((groups, 8), np.uint8)
    index[:, 8 - width :] = planes
    bits = np.packbits(index, axis=1)[:, 0].astype(np.int64) + least
    if bits.max() > most or len(data) - after != int(bits.sum()) * (group_size // 8):
        raise damaged
    levels = _levels_of(data[after:], bits, group_size)
    span = torch.tensor([low, high])
    return Quantised(torch.from_numpy(levels), torch.from_numpy(bits), span[0], span[1])
