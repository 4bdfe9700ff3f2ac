"""Attention over codewords, in linear time: what LongVQ takes from Transformer-VQ (arXiv 2309.16354)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harken.attention._base import precise

_LOWEST = torch.finfo(torch.float32).min / 2


class CodeState(NamedTuple):
    """What a causal pass leaves behind: its latest keys and values, and all earlier values by code.

    Shape:
        - keys, values: ``(batch, heads, window, key_dim or value_dim)``
        - codes: ``(batch, heads, window)``; the size of the codebook where there is no key
        - sums, counts: ``(batch, heads, codes, value_dim)`` and ``(batch, heads, codes)``
    """

    keys: Tensor
    values: Tensor
    codes: Tensor
    sums: Tensor
    counts: Tensor


def longvq_attention(
    q: Float[Tensor, "batch heads time key_dim"],
    k: Float[Tensor, "batch heads time key_dim"],
    v: Float[Tensor, "batch heads time value_dim"],
    codebook: Float[Tensor, "heads codes key_dim"],
    local_bias: Float[Tensor, " window"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, "batch heads time value_dim"]:
    """``softmax(q k_hat^T / sqrt(key_dim) + bias) v`` with each key's nearest codeword, in linear time.

    Keys within a window of each other meet one by one; all others through a count and a sum of values per code, since
    their scores depend on the code alone (Transformer-VQ, arXiv 2309.16354). ``local_bias[|i - j|]`` is added inside
    the window.

    >>> q = k = torch.randn(1, 2, 50, 4); v = torch.ones(1, 2, 50, 3)
    >>> torch.allclose(longvq_attention(q, k, v, torch.randn(2, 8, 4), torch.zeros(5), causal=True), v)
    True
    """
    codes = nearest_codes(k, codebook)
    quantized = k + (codewords(codes, codebook) - k).detach().to(k.dtype)
    return linear_time(q, quantized, v, codes, codebook, local_bias, causal=causal, mask=mask)


def nearest_codes(
    k: Float[Tensor, "batch heads time key_dim"], codebook: Float[Tensor, "heads codes key_dim"]
) -> Int[Tensor, "batch heads time"]:
    """Each key's nearest codeword, found in float32: half precision loses the sign of small gaps."""
    book = precise(codebook).detach()
    half_norms, keys = 0.5 * book.square().sum(-1)[:, None], precise(k).detach()
    parts = [(half_norms - part @ book.mT).argmin(-1) for part in keys.split(4096, 2)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def codewords(
    codes: Int[Tensor, "batch heads time"], codebook: Float[Tensor, "heads codes key_dim"]
) -> Float[Tensor, "batch heads time key_dim"]:
    """The codeword of each code."""
    return codebook[torch.arange(codebook.shape[0], device=codes.device)[:, None], codes]


def commitment_loss(
    k: Float[Tensor, "batch heads time key_dim"],
    quantized: Float[Tensor, "batch heads time key_dim"],
    mask: Bool[Tensor, "batch time"] | None = None,
) -> Float[Tensor, ""]:
    """The mean squared distance of real keys to their codewords, which are not moved by it."""
    distance = (k - quantized.detach()).square().sum(-1)
    if mask is None:
        return distance.mean()
    return distance.masked_fill(~mask[:, None], 0.0).sum() / (k.shape[1] * mask.sum()).clamp_min(1)


def update_codebook(
    sums: Float[Tensor, "heads codes key_dim"],
    counts: Float[Tensor, "heads codes"],
    k: Float[Tensor, "batch heads time key_dim"],
    codes: Int[Tensor, "batch heads time"],
    *,
    decay: float = 0.99,
    mask: Bool[Tensor, "batch time"] | None = None,
) -> tuple[Float[Tensor, "heads codes key_dim"], Float[Tensor, "heads codes"]]:
    """Running sums and counts of the keys of each code after one more batch; a codeword is their ratio."""
    new_sums, new_counts = _by_code(k, codes, counts.shape[-1], mask)
    return torch.lerp(new_sums.sum(0), sums, decay), torch.lerp(new_counts.sum(0), counts, decay)


def _by_code(x: Tensor, codes: Tensor, size: int, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sums of ``x`` by code ``(batch, heads, size, dim)``, and counts; codes of ``size`` mean none."""
    real = codes < size if mask is None else (codes < size) & mask[:, None]
    real, codes = real.to(x.dtype), codes.clamp_max(size - 1)
    sums = x.new_zeros(*x.shape[:2], size, x.shape[-1])
    sums = sums.scatter_add(2, codes.unsqueeze(-1).expand(x.shape), x * real.unsqueeze(-1))
    return sums, x.new_zeros(*x.shape[:2], size).scatter_add(2, codes, real)


def reach(start: int, time: int, window: int, causal: bool) -> tuple[slice, bool]:
    """The keys that the block of queries at ``start`` meets one by one, and whether there are others."""
    first = max(0, start - window)
    end = min(start + (window if causal else 2 * window), time)
    return slice(first, end), first > 0 or (end < time and not causal)


def linear_time(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    codebook: Tensor,
    local_bias: Tensor,
    *,
    causal: bool,
    mask: Tensor | None = None,
) -> Tensor:
    """Attention over keys ``k`` that are the codewords of ``codes``; block by block of queries, as wide as the bias."""
    if mask is not None:
        codes = codes.masked_fill(~mask[:, None], codebook.shape[1])
    if causal:
        return stream(q, k, v, codes, codebook, local_bias, None)[0]
    dtype, time, window, size = v.dtype, v.shape[2], local_bias.shape[0], codebook.shape[1]
    q, k, v, book, bias = _prepared(q, k, v, codebook, local_bias)
    total, mixed = _by_code(v, codes, size), []
    last, now = None, _by_code(v[:, :, :window], codes[:, :, :window], size)
    for start in range(0, time, window):
        near, others = reach(start, time, window, causal=False)
        ahead = slice(start + window, near.stop)
        coming = _by_code(v[:, :, ahead], codes[:, :, ahead], size)
        far = None
        if others:  # all values by code, without those of the blocks that are met one by one
            close = (now, coming) if last is None else (last, now, coming)
            far = total[0] - sum(sums for sums, _ in close), total[1] - sum(counts for _, counts in close)
        block = q[:, :, start : start + window]
        mixed.append(
            _block(block, k[:, :, near], v[:, :, near], codes[:, :, near], start - near.start, far, book, bias)
        )
        last, now = now, coming
    return torch.cat(mixed, 2).to(dtype)


def stream(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    codebook: Tensor,
    local_bias: Tensor,
    state: CodeState | None,
) -> tuple[Tensor, CodeState | None]:
    """The causal form of :func:`linear_time` after ``state``, and the state after it when there was one."""
    dtype, window, size = v.dtype, local_bias.shape[0], codebook.shape[1]
    q, k, v, book, bias = _prepared(q, k, v, codebook, local_bias)
    past, far = 0, None
    if state is not None:
        k, v, codes = (torch.cat(pair, 2) for pair in ((state.keys, k), (state.values, v), (state.codes, codes)))
        past, far = window, (state.sums, state.counts)
    time, mixed = k.shape[2], []
    for start in range(past, time, window):
        near, _ = reach(start, time, window, causal=True)
        block = q[:, :, start - past : near.stop - past]
        offset = start - near.start
        mixed.append(
            _block(block, k[:, :, near], v[:, :, near], codes[:, :, near], offset, far, book, bias, causal=True)
        )
        leaves = slice(near.start, near.stop - window)  # what the next window does not reach is met by code from now on
        if leaves.stop > leaves.start and (near.stop < time or state is not None):
            sums, counts = _by_code(v[:, :, leaves], codes[:, :, leaves], size)
            far = (sums, counts) if far is None else (far[0] + sums, far[1] + counts)
    if state is not None and far is not None:
        keys, values, codes = (part[:, :, -window:].clone() for part in (k, v, codes))
        state = CodeState(keys, values, codes, *far)
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2)).to(dtype), state


def _prepared(q: Tensor, k: Tensor, v: Tensor, codebook: Tensor, local_bias: Tensor) -> tuple[Tensor, ...]:
    """In float32, queries scaled, no gradient to the codebook, a last bias of zero for what is out of the window."""
    return (
        precise(q) * q.shape[-1] ** -0.5,
        precise(k),
        precise(v),
        precise(codebook).detach(),
        F.pad(precise(local_bias), (0, 1)),
    )


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    codes: Tensor,
    offset: int,
    far: tuple[Tensor, Tensor] | None,
    book: Tensor,
    bias: Tensor,
    causal: bool = False,
) -> Tensor:
    """One softmax over the near keys, the first of which is ``offset`` before the first query, and the far codes."""
    lag = offset + torch.arange(q.shape[2], device=q.device)[:, None] - torch.arange(k.shape[2], device=q.device)
    hidden = (codes == book.shape[1]).unsqueeze(2)
    if causal:
        hidden = hidden | (lag < 0)
    scores = q @ k.mT + bias[lag.abs().clamp_max(bias.shape[0] - 1)]
    scores = scores.masked_fill(hidden, _LOWEST)
    if far is None:
        return scores.softmax(-1) @ v
    sums, counts = far
    present = counts.clamp_min(1.0)
    by_code = (q @ book.mT + present.log().unsqueeze(2)).masked_fill((counts < 0.5).unsqueeze(2), _LOWEST)
    near, distant = torch.cat((scores, by_code), -1).softmax(-1).split((k.shape[2], book.shape[1]), -1)
    return near @ v + (distant / present.unsqueeze(2)) @ sums


def dense_weights(
    q: Tensor, k: Tensor, local_bias: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """The whole matrix; rows without a visible key are zero."""
    time, window, dtype = q.shape[2], min(q.shape[2], local_bias.shape[0]), q.dtype
    past = F.pad(precise(local_bias)[:window], (0, time - window))  # by lag
    future = torch.full_like(past[1:], _LOWEST) if causal else past[1:]
    bias = torch.cat((past.flip(0), future)).unfold(0, time, 1).flip(0)  # [i, j] is that of lag i - j
    scores = torch.add(precise(q) * q.shape[-1] ** -0.5 @ precise(k).mT, bias)
    if mask is None:
        return scores.softmax(-1).to(dtype)
    hidden = ~mask[:, None, None, :]
    weights = scores.masked_fill(hidden, _LOWEST).softmax(-1).masked_fill(hidden, 0.0)
    return (weights.tril() if causal else weights).to(dtype)


def _reference(
    q: Tensor, k: Tensor, v: Tensor, codebook: Tensor, local_bias: Tensor, *, causal: bool = False
) -> Tensor:
    """One query after another: softmax over the codewords nearest to the keys it sees, with the bias of near ones."""
    out = torch.zeros_like(v)
    for b, h, i in torch.cartesian_prod(*(torch.arange(size) for size in q.shape[:3])).tolist():
        scores = []
        for j in range(i + 1 if causal else k.shape[2]):
            nearest = (codebook[h] - k[b, h, j]).square().sum(-1).argmin()
            score = q[b, h, i] @ codebook[h, nearest] * q.shape[-1] ** -0.5
            scores.append(score + local_bias[abs(i - j)] if abs(i - j) < len(local_bias) else score)
        out[b, h, i] = torch.stack(scores).softmax(0) @ v[b, h, : len(scores)]
    return out
