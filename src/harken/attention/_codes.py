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
    half_norms, keys = 0.5 * book.square().sum(-1)[:, None], precise(k).detach().transpose(0, 1).flatten(1, 2)
    parts = [torch.baddbmm(half_norms, part, book.mT, alpha=-1).argmin(-1) for part in keys.split(4096, 1)]
    return torch.cat(parts, 1).unflatten(1, (k.shape[0], k.shape[2])).transpose(0, 1)


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
    return _with_values((x.new_zeros(*x.shape[:2], size, x.shape[-1]), x.new_zeros(*x.shape[:2], size)), x, codes, real)


def _with_values(far: tuple[Tensor, Tensor], x: Tensor, codes: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Sums and counts by code with further values; new tensors where a gradient may need the old ones."""
    sums, counts = far
    groups = torch.arange(x.shape[0] * x.shape[1], device=x.device).view(*x.shape[:2], 1) * counts.shape[-1]
    rows, real = (codes.clamp_max(counts.shape[-1] - 1) + groups).flatten(), real.to(x.dtype)
    values = (x * real.unsqueeze(-1)).reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        more = sums.flatten(0, 2).index_add(0, rows, values), counts.flatten().index_add(0, rows, real.flatten())
    else:
        more = sums.flatten(0, 2).index_add_(0, rows, values), counts.flatten().index_add_(0, rows, real.flatten())
    return more[0].view(sums.shape), more[1].view(counts.shape)


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
        return stream(q, k, v, codes, codebook, local_bias, None, padded=mask is not None)[0]
    dtype, time, window, size = v.dtype, v.shape[2], local_bias.shape[0], codebook.shape[1]
    q, k, v, book = _prepared(q, k, v, codebook)
    bias = _bias_table(local_bias, causal=False)
    total, mixed = _by_code(v, codes, size), []
    qs, ks, vs = _pieces(q, window), _pieces(k, window), _pieces(v, window)
    last, now = None, _by_code(_cut(v, vs, 0, min(window, time), window), codes[:, :, :window], size)
    for start in range(0, time, window):
        near, others = reach(start, time, window, causal=False)
        ahead = slice(start + window, near.stop)
        coming = _by_code(_cut(v, vs, start + window, near.stop, window), codes[:, :, ahead], size)
        far = None
        if others:  # all values by code, without those of the blocks that are met one by one
            close = (now, coming) if last is None else (last, now, coming)
            far = total[0] - sum(sums for sums, _ in close), total[1] - sum(counts for _, counts in close)
        block = _cut(q, qs, start, min(start + window, time), window)
        near_k, near_v = (_cut(x, xs, near.start, near.stop, window) for x, xs in ((k, ks), (v, vs)))
        hidden = None if mask is None else codes[:, :, near] == size
        mixed.append(_block(block, near_k, near_v, bias, start - near.start, hidden, far, book))
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
    *,
    padded: bool = False,
) -> tuple[Tensor, CodeState | None]:
    """The causal form of :func:`linear_time` after ``state``, and the state after it when there was one.

    ``padded`` says that some codes may be the size of the codebook: no key, as in a state that has had few.
    """
    dtype, window, size = v.dtype, local_bias.shape[0], codebook.shape[1]
    q, k, v, book = _prepared(q, k, v, codebook)
    bias = _bias_table(local_bias, causal=True)
    past, far, padded = 0, None, padded or state is not None
    if state is not None:
        k, v, codes = (torch.cat(pair, 2) for pair in ((state.keys, k), (state.values, v), (state.codes, codes)))
        past, far = window, (state.sums.clone(), state.counts.clone())  # the state given stays as it was
    time, mixed = k.shape[2], []
    qs, ks, vs = _pieces(q, window), _pieces(k, window), _pieces(v, window)
    for start in range(past, time, window):
        near, _ = reach(start, time, window, causal=True)
        block = _cut(q, qs, start - past, near.stop - past, window)
        near_k, near_v = (_cut(x, xs, near.start, near.stop, window) for x, xs in ((k, ks), (v, vs)))
        hidden = codes[:, :, near] == size if padded else None
        mixed.append(_block(block, near_k, near_v, bias, start - near.start, hidden, far, book))
        leaves = slice(near.start, near.stop - window)  # what the next window does not reach is met by code from now on
        if leaves.stop > leaves.start and (near.stop < time or state is not None):
            going, its_codes = _cut(v, vs, leaves.start, leaves.stop, window), codes[:, :, leaves]
            far = (
                _by_code(going, its_codes, size)
                if far is None
                else _with_values(far, going, its_codes, its_codes < size)
            )
    if state is not None and far is not None:
        keys, values, codes = (part[:, :, -window:].clone() for part in (k, v, codes))
        state = CodeState(keys, values, codes, *far)
    return (mixed[0] if len(mixed) == 1 else torch.cat(mixed, 2)).to(dtype), state


def _pieces(x: Tensor, window: int) -> tuple[Tensor, ...] | None:
    """``x`` in windows, for :func:`_cut`; None without gradients, where slices cost nothing.

    The gradient of a slice is as long as the whole of ``x``, so a slice for each window would make training quadratic
    in length. The gradient of a split is one concatenation, so stretches are put together from the pieces of one.
    """
    return x.split(window, 2) if torch.is_grad_enabled() else None


def _cut(x: Tensor, pieces: tuple[Tensor, ...] | None, start: int, stop: int, window: int) -> Tensor:
    """``x[:, :, start:stop]`` for a ``start`` at which a window begins."""
    if pieces is None or stop <= start:
        return x[:, :, start : max(start, stop)]
    met = pieces[start // window : (stop + window - 1) // window]
    joined = met[0] if len(met) == 1 else torch.cat(met, 2)
    return joined if joined.shape[2] == stop - start else joined[:, :, : stop - start]


def _prepared(q: Tensor, k: Tensor, v: Tensor, codebook: Tensor) -> tuple[Tensor, ...]:
    """In float32, queries scaled, no gradient to the codebook."""
    return precise(q) * q.shape[-1] ** -0.5, precise(k), precise(v), precise(codebook).detach()


def _bias_table(local_bias: Tensor, *, causal: bool) -> Tensor:
    """The bias of a block of queries and the keys from one window before it on: ``[i, j]`` is lag ``window + i - j``'s.

    Zero out of the window, and lowest for what lies ahead where that is hidden.
    """
    window = local_bias.shape[0]
    width = (2 if causal else 3) * window
    positions = torch.arange(width, device=local_bias.device)
    lag = window + positions[:window, None] - positions
    bias = F.pad(precise(local_bias), (0, 1))[lag.abs().clamp_max(window)]
    return bias.masked_fill(lag < 0, _LOWEST) if causal else bias


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    offset: int,
    hidden: Tensor | None,
    far: tuple[Tensor, Tensor] | None,
    book: Tensor,
) -> Tensor:
    """One softmax over the near keys, the first of which is ``offset`` before the first query, and the far codes."""
    first = bias.shape[0] - offset
    scores = q @ k.mT + bias[: q.shape[2], first : first + k.shape[2]]
    if hidden is not None:
        scores = scores.masked_fill(hidden.unsqueeze(2), _LOWEST)
    if far is None:
        return scores.softmax(-1) @ v
    sums, counts = far
    present = counts.clamp_min(1.0)
    shift = present.log().masked_fill(counts < 0.5, _LOWEST)
    by_code = q @ book.mT + shift.unsqueeze(2)
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
