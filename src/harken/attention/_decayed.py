"""Causal sums that forget: ``S_t = a_t S_{t-1} + k_t^T v_t`` read by ``y_t = q_t S_t``, in time linear in length.

Two kinds of decay share one chunkwise form: a constant one per head (Lightning Attention-2, arXiv 2401.04658) and one
per position and key channel, made from the data (gated linear attention, arXiv 2312.06635). Pairs inside a chunk meet
directly; what came before a chunk is met through a state. Decays are only ever multiplied with decays, each at most 1:
nothing is divided by one, so nothing overflows, however fast a channel forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken.attention._base import precise

# long sequences go piece by piece, so that what is stored between two products stays in the cache
_SEGMENT = 2048
# and whole layers do, on a CPU: tensors beyond some tens of MB are given back to the system and fetched again each time
PIECE = 4096


def decayed_attention(
    q: Float[Tensor, "batch heads time key_dim"],
    k: Float[Tensor, "batch heads time key_dim"],
    v: Float[Tensor, "batch heads time value_dim"],
    slopes: Float[Tensor, " heads"],
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    *,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads time value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """``y_t = sum over s <= t of exp(-slope (t - s)) (q_t . k_s) v_s``, from a state, with the state after it.

    On CUDA the kernels of flash-linear-attention do it, where they are installed.
    """
    if (kernel := _kernel_for(q, "simple_gla", "chunk_simple_gla")) is not None:
        return _by_kernel(kernel, q, k, v, state, g_gamma=-slopes.float())
    with torch.autocast(q.device.type, enabled=False):
        slopes = precise(slopes)
        return _in_segments(
            (q, k, v),
            lambda q, k, v, state: _decayed_segment(q, k, v, slopes, state, chunk_size),
            _start(k, v, state),
            chunk_size,
        )


def gated_attention(
    q: Float[Tensor, "batch heads time key_dim"],
    k: Float[Tensor, "batch heads time key_dim"],
    v: Float[Tensor, "batch heads time value_dim"],
    log_decay: Float[Tensor, "batch heads time key_dim"],
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    *,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads time value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """``y_t = q_t S_t`` with ``S_t = exp(log_decay_t) S_{t-1} + k_t^T v_t``, row by row; with the last state.

    ``log_decay`` is at most 0; ``chunk_size`` is a power of two. On CUDA the kernels of flash-linear-attention do it,
    where they are installed.
    """
    if (kernel := _kernel_for(q, "gla", "chunk_gla")) is not None:
        return _by_kernel(kernel, q, k, v, state, g=log_decay.transpose(1, 2))
    with torch.autocast(q.device.type, enabled=False):
        return _in_segments(
            (q, k, v, log_decay),
            lambda q, k, v, log_decay, state: _gated_segment(q, k, v, log_decay, state, chunk_size),
            _start(k, v, state),
            chunk_size,
        )


def gated_weights(
    q: Float[Tensor, "batch heads time key_dim"],
    k: Float[Tensor, "batch heads time key_dim"],
    log_decay: Float[Tensor, "batch heads time key_dim"],
) -> Float[Tensor, "batch heads time time"]:
    """The matrix that :func:`gated_attention` applies from an empty state, in float32 at least."""
    time = q.shape[2]
    with torch.autocast(q.device.type, enabled=False):
        size = max(2, _power_of_two(time))  # so that even a lone position leaves its gate a gradient, of zero
        q, k, log_decay = (_chunked(part, 1, size) for part in (q, k, log_decay))
        return _gated_scores(q, k, log_decay.exp())[0].squeeze(2)[..., :time, :time]


def decayed_step(
    q: Float[Tensor, "batch heads 1 key_dim"],
    k: Float[Tensor, "batch heads 1 key_dim"],
    v: Float[Tensor, "batch heads 1 value_dim"],
    decay: Float[Tensor, "#batch heads #key_dim 1"],
    state: Float[Tensor, "batch heads key_dim value_dim"],
) -> tuple[Float[Tensor, "batch heads 1 value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """The recurrence itself, for one position."""
    with torch.autocast(q.device.type, enabled=False):
        state = torch.addcmul(precise(k).transpose(-1, -2) * precise(v), decay, state)
        return (precise(q) @ state).to(v.dtype), state


def decayed_flops(batch: int, heads: int, time: int, key_dim: int, value_dim: int, chunk_size: int) -> int:
    """Of :func:`decayed_attention`: scores, scores times values, sums of chunks, what is carried, what is read."""
    total = 0
    for positions in _lengths(time, chunk_size):
        size = min(chunk_size, positions)
        chunks = -(-positions // size)
        total += chunks * size * (size * (key_dim + value_dim) + 2 * key_dim * value_dim)
        total += (chunks + 1) ** 2 * key_dim * value_dim
    return 2 * batch * heads * total


def gated_flops(batch: int, heads: int, time: int, key_dim: int, value_dim: int, chunk_size: int) -> int:
    """Of :func:`gated_attention`: scores of the halves of halves of a chunk, and the rest as with a constant decay."""
    total = 0
    for positions in _lengths(time, chunk_size):
        size = _power_of_two(min(chunk_size, positions))
        chunks = -(-positions // size)
        total += chunks * (size * (size - 1) // 2 * key_dim + size * value_dim * (size + 2 * key_dim))
        total += (chunks + 1) ** 2 * key_dim * value_dim
    return 2 * batch * heads * total


def _in_segments(
    whole: tuple[Tensor, ...],
    segment: Callable[..., tuple[Tensor, Tensor]],
    state: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Segment by segment; ``whole`` is queries, keys, values and perhaps more."""
    time, dtype = whole[0].shape[2], whole[2].dtype
    # split, since the gradient of each slice would be as long as the whole: quadratic work in all
    splits = [part.split(_lengths(time, chunk_size), 2) for part in whole]
    mixed = []
    for parts in zip(*splits, strict=True):
        y, state = segment(*parts, state)
        mixed.append(y.to(dtype))
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2), state


def _lengths(time: int, chunk_size: int) -> list[int]:
    longest = chunk_size * max(1, _SEGMENT // chunk_size)
    return [min(longest, time - start) for start in range(0, time, longest)]


def _start(k: Tensor, v: Tensor, state: Tensor | None) -> Tensor:
    if state is not None:
        return precise(state)
    return torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1], device=k.device, dtype=precise(k[:0]).dtype)


def _decayed_segment(
    q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    time = q.shape[2]
    size = min(chunk_size, time)
    chunks = -(-time // size)
    q, k, v = (_chunked(part, chunks, size) for part in (q, k, v))
    slopes = slopes[:, None, None]
    position = torch.arange(size, device=q.device)
    decay = (-slopes * (position[:, None] - position).clamp_min(0)).exp().tril()
    scores = (q @ k.transpose(-1, -2)).mul_(decay.unsqueeze(1))
    start = size * torch.arange(chunks, device=q.device)[:, None]
    length = (time - start).clamp_max(size)  # of each chunk: the last may be short
    since_start = (-slopes * (position + 1)).exp()
    until_end = (-slopes * (length - 1 - position).clamp_min(0)).exp()
    between = _between((-slopes * length).squeeze(-1))
    fresh = ((k * until_end.unsqueeze(-1)).transpose(-1, -2) @ v).flatten(3)
    # rows: what each chunk finds before it, and at last what is left after all; columns: the state, then each chunk
    parts = torch.cat((state.flatten(2).unsqueeze(2), fresh), 2)
    before = (between[:, :-1] @ parts).unflatten(3, state.shape[2:])
    state = (between[:, -1:] @ parts).view_as(state)
    mixed = (scores @ v).add_((q * since_start.unsqueeze(-1)) @ before)
    return mixed.flatten(2, 3)[:, :, :time], state


def _gated_segment(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    time = q.shape[2]
    size = _power_of_two(min(chunk_size, time))
    chunks = -(-time // size)
    q, k, v, log_decay = (_chunked(part, chunks, size) for part in (q, k, v, log_decay))
    scores, since_start, until_end = _gated_scores(q, k, log_decay.exp())
    between = _between(log_decay.sum(-2).transpose(-1, -2))  # (batch, heads, key_dim, chunks + 1, chunks + 1)
    fresh = until_end.transpose(-1, -2) @ v
    parts = torch.cat((state.unsqueeze(2), fresh), 2).transpose(2, 3)
    before = (between[..., :-1, :] @ parts).transpose(2, 3)
    state = (between[..., -1:, :] @ parts).squeeze(-2)
    mixed = (scores @ v).add_(since_start @ before)
    return mixed.flatten(2, 3)[:, :, :time], state


def _gated_scores(q: Tensor, k: Tensor, decay: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scores inside chunks; queries with what decays from a chunk's start to them, keys with what does up to its end.

    Blocks of one position grow by doubling. Of two neighbours the later one's queries meet the earlier one's keys at
    the border: decayed from the border to the query, and from the key to the border.
    """
    scores = (q * k).sum(-1)[..., None, None]
    q, k, decay = (part.unsqueeze(-2) for part in (q * decay, k, decay))  # (..., blocks, block, key_dim)
    while scores.shape[-3] > 1:
        (early, late), (early_q, late_q), (early_k, late_k), (early_decay, late_decay) = (
            part.unflatten(-3, (-1, 2)).unbind(-3) for part in (scores, q, k, decay)
        )
        across = late_q @ early_k.transpose(-1, -2)
        scores = torch.cat((F.pad(early, (0, early.shape[-1])), torch.cat((across, late), -1)), -2)
        q = torch.cat((early_q, late_q * early_decay), -2)
        k = torch.cat((early_k * late_decay, late_k), -2)
        decay = early_decay * late_decay
    return scores.squeeze(-3), q.squeeze(-3), k.squeeze(-3)


def _between(log_decay: Tensor) -> Tensor:
    """What is left at step ``i`` of what was there at step ``j``: ``(..., steps)`` to ``(..., steps + 1, steps + 1)``.

    Zero where ``j > i``. Each entry is a sum of its own, since differences of running sums lose what is small.
    """
    entering = F.pad(log_decay, (1, 0)).unsqueeze(-1)
    return entering.expand(*entering.shape[:-1], entering.shape[-2]).tril(-1).cumsum(-2).exp().tril()


def _chunked(x: Tensor, chunks: int, size: int) -> Tensor:
    """``(batch, heads, time, dim)`` to ``(batch, heads, chunks, size, dim)``, precise, whole, zeros at the end."""
    missing = chunks * size - x.shape[2]
    x = F.pad(precise(x), (0, 0, 0, missing)) if missing else precise(x).contiguous()
    return x.unflatten(2, (chunks, size))


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _by_kernel(
    kernel: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, state: Tensor | None, **decay: Tensor
) -> tuple[Tensor, Tensor]:
    """A kernel of flash-linear-attention, which wants time before heads and scales queries unless told."""
    q, k, v = (part.transpose(1, 2) for part in (q, k, v))
    state = None if state is None else state.float()
    mixed, state = kernel(q, k, v, **decay, scale=1.0, initial_state=state, output_final_state=True)
    return mixed.transpose(1, 2), state


def _kernel_for(q: Tensor, module: str, name: str) -> Callable[..., tuple[Tensor, Tensor]] | None:
    return _kernel(module, name) if q.is_cuda and q.dtype != torch.float64 else None


@cache
def _kernel(module: str, name: str) -> Callable[..., tuple[Tensor, Tensor]] | None:
    try:
        return getattr(import_module(f"fla.ops.{module}"), name)
    except ImportError:
        return None
