"""Linear attention: time linear in length, a stream of constant size (Katharopoulos et al., arXiv 2006.16236)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, ProjectedAttention
from harken.errors import InputError

# a row whose features have all but vanished has no weights: it becomes zero instead of infinite
_SMALLEST_SUM = 1e-6
# long sequences go piece by piece, so that what is stored between two products stays in the cache
_SEGMENT = 4096


class LinearState(NamedTuple):
    """What a stream has summed up, in float32 at least, since the sums run over the whole past.

    Shape:
        - keys_values: ``(batch, heads, head_dim, head_dim)``, the sum of ``f(k)^T v``
        - keys: ``(batch, heads, head_dim)``, the sum of ``f(k)``
    """

    keys_values: Tensor
    keys: Tensor


class LinearAttention(ProjectedAttention):
    """Attention by a product of features, ``y_t = f(q_t) S_t / (f(q_t) z_t)`` with ``f = elu + 1``.

    ``S`` is the sum of ``f(k_s)^T v_s`` and ``z`` that of ``f(k_s)``, over all positions or, when causal, over those up
    to ``t`` (equations 5, 8 and 9 to 12 of the paper). The causal form goes chunk by chunk: pairs inside a chunk meet
    directly, all that came before is met through the sums, so no ``time x time`` matrix and no sum per position exists.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    >>> layer = LinearAttention(dim=16, heads=4, causal=True)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4, 4]))
    """

    name: ClassVar[str] = "linear"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True)
    state_type: ClassVar[type[tuple]] = LinearState

    def __init__(self, dim: int, heads: int, *, causal: bool = False, bias: bool = True, chunk_size: int = 64):
        super().__init__(dim, heads, causal=causal, bias=bias)
        if chunk_size < 1:
            raise InputError(f"chunk_size={chunk_size} must be at least 1")
        self.chunk_size = chunk_size

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return linear_attention(q, k, v, causal=self.causal, mask=mask, chunk_size=self.chunk_size)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return _implied_weights(q, k, causal=self.causal, mask=mask).to(q.dtype)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LinearState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        dtype = torch.promote_types(dtype or weight.dtype, torch.float32)
        keys = torch.zeros(batch_size, self.heads, self.head_dim, device=device or weight.device, dtype=dtype)
        return LinearState(keys.new_zeros(*keys.shape, self.head_dim), keys)

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: LinearState) -> tuple[Tensor, LinearState]:
        if q.shape[2] > 1:
            return _stream(q, k, v, None, state, self.chunk_size)
        q, k = _features(q), _features(k)  # one position: the recurrence itself
        state = LinearState(state.keys_values + k.transpose(-1, -2) @ _precise(v), state.keys + k.squeeze(2))
        return _divided(q @ state.keys_values, q @ state.keys.unsqueeze(-1)).to(v.dtype), state

    def mix_cost(self, batch: int, time: int) -> Cost:
        size, chunks = self.chunk_size, -(-time // self.chunk_size)
        values = batch * self.dim * (chunks * size if self.causal and chunks > 1 else time)
        sums = batch * self.heads * (self.head_dim + 1) * self.head_dim
        by_sums = (4 * self.head_dim + 2) * values  # k^T v, q S and q z
        if not self.causal:
            flops, stored = by_sums, sums
        elif chunks == 1:
            flops, stored = 4 * values * time, values // self.head_dim * time
        else:
            flops, stored = by_sums + 4 * values * size, values // self.head_dim * size + chunks * sums
        return Cost(
            flops=flops,
            bytes=(4 * values + stored) * self._item_size,
            state=max(4, self._item_size) * sums if self.causal else 0,
        )


def linear_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    chunk_size: int = 64,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values mixed by ``f(q) f(k)^T``, rows normalised, with ``f = elu + 1``; half precision is summed in float32.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> torch.allclose(linear_attention(q, k, v, causal=True), v)
    True
    """
    if causal and q.shape[2] <= chunk_size:  # one chunk: every pair meets directly
        return (_implied_weights(q, k, causal=True, mask=mask) @ _precise(v)).to(v.dtype)
    if causal:
        return _stream(q, k, v, mask, None, chunk_size)[0]
    keys_values, keys = torch.zeros(()), torch.zeros(())
    for part in _segments(k.shape[2], _SEGMENT):
        features = _features(k[:, :, part], None if mask is None else mask[:, part])
        keys_values = features.transpose(-1, -2) @ _precise(v[:, :, part]) + keys_values
        keys = features.sum(-2).unsqueeze(-1) + keys
    mixed = []
    for part in _segments(q.shape[2], _SEGMENT):
        features = _features(q[:, :, part])
        mixed.append(_divided(features @ keys_values, features @ keys).to(v.dtype))
    return _joined(mixed)


def _stream(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, state: LinearState | None, chunk_size: int
) -> tuple[Tensor, LinearState]:
    """The causal form, segment by segment; also the state after it."""
    if state is None:
        keys = torch.zeros_like(_precise(k[:, :, 0]))
        state = LinearState(keys.unsqueeze(-1) * torch.zeros_like(_precise(v[:, :, :1])), keys)
    mixed = []
    for part in _segments(q.shape[2], chunk_size * max(1, _SEGMENT // chunk_size)):
        features = _features(k[:, :, part], None if mask is None else mask[:, part])
        y, state = _chunks(_features(q[:, :, part]), features, _precise(v[:, :, part]), state, chunk_size)
        mixed.append(y.to(v.dtype))
    return _joined(mixed), state


def _chunks(q: Tensor, k: Tensor, v: Tensor, state: LinearState, chunk_size: int) -> tuple[Tensor, LinearState]:
    """The causal form on features: chunks side by side, then one running sum over them."""
    time = q.shape[2]
    size = min(chunk_size, time)
    chunks = -(-time // size)
    missing = chunks * size - time
    if missing:  # zero features add nothing to any sum
        q, k, v = (F.pad(part, (0, 0, 0, missing)) for part in (q, k, v))
    q, k, v = (part.unflatten(2, (chunks, size)) for part in (q, k, v))
    scores = (q @ k.transpose(-1, -2)).tril_()
    keys_values, keys_values_before = _running_sum(k.transpose(-1, -2) @ v, state.keys_values)
    keys, keys_before = _running_sum(k.sum(-2), state.keys)
    mixed = (scores @ v).add_(q @ keys_values_before)
    total = scores.sum(-1, keepdim=True).add_(q @ keys_before.unsqueeze(-1))
    return _divided(mixed, total).flatten(2, 3)[:, :, :time], LinearState(keys_values, keys)


def _running_sum(parts: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of ``start`` and all ``parts`` along axis 2, and what each part finds before it."""
    sums = torch.cat((start.unsqueeze(2), parts), 2).cumsum(2)
    return sums[:, :, -1].clone(), sums[:, :, :-1]  # a copy, so that a state does not hold all the sums alive


def _implied_weights(q: Tensor, k: Tensor, *, causal: bool, mask: Tensor | None) -> Tensor:
    scores = _features(q) @ _features(k, mask).transpose(-1, -2)
    if causal:
        scores = scores.tril_()
    return _divided(scores, scores.sum(-1, keepdim=True))


def _divided(mixed: Tensor, total: Tensor) -> Tensor:
    return mixed / total.clamp_min(_SMALLEST_SUM)


def _segments(time: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, time)) for start in range(0, time, size)]


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 2)


def _features(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """``elu(x) + 1``, positive; zero where the mask says padding."""
    features = F.elu(_precise(x)).add_(1.0)
    return features if mask is None else features.masked_fill(~mask[:, None, :, None], 0.0)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None) -> Tensor:
    """The paper's equation 5 as it stands: for each query a weighted mean of the values it sees."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 :] = False
                similarity = (F.elu(k[b, h, visible]) + 1) @ (F.elu(q[b, h, t]) + 1)
                out[b, h, t] = (similarity / similarity.sum()) @ v[b, h, visible]
    return out
