"""MALA: linear attention in which the length of a query sharpens its weights (arXiv 2507.00698)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from harken.attention._base import Capabilities, Cost, precise
from harken.attention._chunked import (
    SEGMENT,
    LinearState,
    checked_chunk_size,
    empty_sums,
    joined,
    kernel_cost,
    masked,
    mix_chunks,
    pieces,
    prefix_sums,
    whole_chunks,
)
from harken.attention._local_gated import LocalGatedAttention, turned
from harken.attention.linear import elu_features
from harken.attention.softmax import allowed_pairs
from harken.errors import InputError

Feature = Literal["elu", "relu", "exp"]

_EPS = 1e-6
_LARGEST_EXPONENT = 30.0  # e^30 still leaves room for a sum over millions of keys

_FEATURES: dict[str, Callable[[Tensor], Tensor]] = {
    "elu": elu_features,
    "relu": lambda x: precise(x).relu(),
    "exp": lambda x: precise(x).clamp_max(_LARGEST_EXPONENT).exp(),
}


class MalaState(NamedTuple):
    """What a stream has summed up, in float32 at least, and the last frames of the local branch.

    Shape:
        - keys_values: ``(batch, heads, head_dim, head_dim)``, the sum of ``f(k)^T v`` (keys rotated, where they are)
        - keys: ``(batch, heads, head_dim)``, the sum of ``f(k)``
        - values: ``(batch, heads, head_dim)``, the sum of ``v``
        - time: ``(batch,)``, how many positions went in
        - recent: ``(batch, local_kernel - 1, dim)``, values that the local branch still needs
    """

    keys_values: Tensor
    keys: Tensor
    values: Tensor
    time: Tensor
    recent: Tensor


class MalaAttention(LocalGatedAttention):
    """Linear attention that subtracts where plain linear attention divides, so that longer queries attend more sharply.

    With ``f = elu + 1``, ``n`` visible keys and ``z_t = f(q_t) sum_s f(k_s) / (n sqrt(head_dim))`` the weight of ``s``
    at ``t`` is ``(1 + 1 / z_t) f(q_t) f(k_s) / (n sqrt(head_dim)) - z_t / n``. Each row sums to 1, but a weight may be
    negative: never take its logarithm. (The paper's equations lack the factor ``1 / (n sqrt(head_dim))``, without
    which the subtracted part grows with length; this is what the authors' code computes.)

    The causal form is ours, the authors give none: every sum and ``n`` run over the positions up to ``t``, so its last
    row is the bidirectional one. It goes chunk by chunk, and a stream carries sums of constant size.

    Alone the layer is a drop-in for another mechanism. ``axes=2, rotary=True, local_kernel=5, gate=True`` is the vision
    layer of the paper's MAViT; :meth:`weights` is the matrix of the mixing, without local branch and gate.

    Args:
        dim: channels of input and output.
        heads: parallel heads; ``dim`` must divide by it.
        causal: position ``t`` sees only positions up to ``t``.
        bias: whether the projections have one.
        feature: ``f``: ``"elu"`` (plus 1), ``"relu"`` or ``"exp"``, which the paper finds about equal.
        axes: 1 for a sequence, 2 for an image, whose ``grid`` is then needed by rotary positions and local branch.
        rotary: turn ``f(q)`` and ``f(k)`` by position. As in the authors' code ``z`` stays unturned, so that it is
            positive, and rows no longer sum to 1.
        rotary_in_norm: turn them in ``z`` too: rows sum to 1, but ``1 / z`` may explode.
        local_kernel: width of a depth-wise convolution over the values that is added to the mixed ones; 0 for none.
        gate: multiply the output by a projection of ``x`` (no activation), as the authors do.
        chunk_size: positions that meet directly in the causal form; changes speed and memory, not the result.

    Raises:
        CapabilityError: a causal image.
        InputError: an option out of range.

    >>> layer = MalaAttention(dim=16, heads=4, causal=True, rotary=True, local_kernel=5)
    >>> y, state = layer.step(torch.randn(2, 100, 16), layer.init_state(2))
    >>> y.shape, state.keys_values.shape
    (torch.Size([2, 100, 16]), torch.Size([2, 4, 4, 4]))
    """

    name: ClassVar[str] = "mala"
    capabilities: ClassVar[Capabilities] = Capabilities(constant_state=True)
    state_type: ClassVar[type[tuple]] = MalaState

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        causal: bool = False,
        bias: bool = True,
        feature: Feature = "elu",
        axes: Literal[1, 2] = 1,
        rotary: bool = False,
        rotary_in_norm: bool = False,
        local_kernel: int = 0,
        gate: bool = False,
        chunk_size: int = 64,
    ):
        super().__init__(
            dim, heads, causal=causal, bias=bias, axes=axes, rotary=rotary, local_kernel=local_kernel, gate=gate
        )
        if feature not in _FEATURES:
            raise InputError(f"feature='{feature}' must be one of {', '.join(_FEATURES)}")
        self.feature: Feature = feature
        self.rotary_in_norm = rotary_in_norm
        self.chunk_size = checked_chunk_size(chunk_size)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        return mala_attention(
            q,
            k,
            v,
            causal=self.causal,
            mask=mask,
            angles=angles,
            angles_in_norm=self.rotary_in_norm,
            feature=self.feature,
            chunk_size=self.chunk_size,
        )

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None, angles: Tensor | None = None) -> Tensor:
        weights, _ = mala_weights(
            q,
            k,
            causal=self.causal,
            mask=mask,
            angles=angles,
            angles_in_norm=self.rotary_in_norm,
            feature=self.feature,
        )
        return weights.to(q.dtype)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> MalaState:
        if not self.causal:
            raise self._lacks_step()
        weight = self.in_proj.weight
        device, dtype = device or weight.device, dtype or weight.dtype
        sums = torch.zeros(
            batch_size, self.heads, self.head_dim, device=device, dtype=torch.promote_types(dtype, torch.float32)
        )
        return MalaState(
            keys_values=sums.new_zeros(*sums.shape, self.head_dim),
            keys=sums,
            values=sums.clone(),
            time=torch.zeros(batch_size, device=device, dtype=torch.int64),
            recent=torch.zeros(batch_size, max(0, self.local_kernel - 1), self.dim, device=device, dtype=dtype),
        )

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch time dim"], Any]:
        self._check_stream(x, state)
        q, k, v = self.project(x)
        values = torch.cat((state.recent, v.transpose(1, 2).flatten(2)), 1)
        mixed, state = self.mix_step(q, k, v, state)
        state = state._replace(recent=values[:, values.shape[1] - state.recent.shape[1] :])
        return self._finish(mixed, values, x, None), state

    def mix_step(self, q: Tensor, k: Tensor, v: Tensor, state: MalaState) -> tuple[Tensor, MalaState]:
        angles = self.angles(q[:, 0], start=state.time)
        form = _Form(self.feature, angles, self.rotary_in_norm)
        if q.shape[2] == 1:
            return _one_position(form, q, k, v, state)
        return _stream(form, q, k, v, None, state, self.chunk_size)

    def mix_cost(self, batch: int, time: int) -> Cost:
        d, size, chunks = self.head_dim, self.chunk_size, -(-time // self.chunk_size)
        cost = kernel_cost(batch * self.heads, time, d, d, size, causal=self.causal, items=self._item_size)
        moved = flops = state = 0
        if self.rotary and not self.rotary_in_norm and self.causal:  # the unturned pairs meet too, for z
            met = time * time if chunks == 1 else chunks * size * size
            flops, moved = 2 * batch * self.dim * met, batch * self.heads * met * self._item_size
        if self.causal:
            state = batch * (max(4, self._item_size) * self.dim + 8)  # the sum of the values, and the time
        return cost + Cost(flops=flops, bytes=moved, state=state)


def mala_attention(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    v: Float[Tensor, "batch heads keys value_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    angles: Float[Tensor, "time half_dim"] | None = None,
    angles_in_norm: bool = False,
    feature: Feature = "elu",
    chunk_size: int = 64,
) -> Float[Tensor, "batch heads time value_dim"]:
    """Values mixed by MALA's weights (see :class:`MalaAttention`); half precision is summed in float32.

    ``angles`` turn pairs of neighbouring channels of ``f(q)`` and ``f(k)``.

    >>> q = k = v = torch.ones(1, 2, 5, 4)
    >>> torch.allclose(mala_attention(q, k, v, causal=True), v)
    True
    """
    if causal and q.shape[2] <= chunk_size:  # one chunk: every pair meets directly
        weights, _ = mala_weights(
            q, k, causal=True, mask=mask, angles=angles, angles_in_norm=angles_in_norm, feature=feature
        )
        return (weights @ precise(v)).to(v.dtype)
    form = _Form(feature, angles, angles_in_norm)
    if causal:
        return _stream(form, q, k, v, mask, None, chunk_size)[0]
    sums, values = None, torch.zeros((), device=q.device)
    for part, k_part, v_part in pieces(SEGMENT, k, v):
        counted, met = _features(form, k_part, part, mask)
        here = masked(precise(v_part), mask, part)
        sums = empty_sums(met, here) if sums is None else sums
        sums = LinearState(sums.keys_values + met.transpose(-1, -2) @ here, sums.keys + counted.sum(-2))
        values = values + here.sum(-2, keepdim=True)
    assert sums is not None
    count = k.shape[2] if mask is None else mask.sum(-1).clamp_min(1)[:, None, None, None].to(values.dtype)
    scale = q.shape[-1] ** -0.5 / count
    keys_values, keys, values = sums.keys_values * scale, sums.keys.unsqueeze(-1) * scale, values / count
    mixed = []
    for part, q_part in pieces(SEGMENT, q):
        counted, met = _features(form, q_part, part)
        z = counted @ keys
        mixed.append(_combined(met @ keys_values, z, values).to(v.dtype))
    return joined(mixed)


def mala_weights(
    q: Float[Tensor, "batch heads time head_dim"],
    k: Float[Tensor, "batch heads keys head_dim"],
    *,
    causal: bool = False,
    mask: Bool[Tensor, "batch keys"] | None = None,
    angles: Float[Tensor, "time half_dim"] | None = None,
    angles_in_norm: bool = False,
    feature: Feature = "elu",
) -> tuple[Float[Tensor, "batch heads time keys"], Float[Tensor, "batch heads time 1"]]:
    """The matrix that :func:`mala_attention` applies, in float32 at least, and each query's ``z``."""
    form = _Form(feature, angles, angles_in_norm)
    counted_q, met_q = _features(form, q)
    counted_k, met_k = _features(form, k, mask=mask)
    scores = met_q @ met_k.transpose(-1, -2)
    visible = allowed_pairs(q, k, causal=causal, mask=mask)
    if visible is None:
        visible = torch.ones(1, 1, 1, k.shape[2], dtype=torch.bool, device=q.device)
    count = visible.sum(-1, keepdim=True).clamp_min(1).to(scores.dtype)
    if causal:
        scores = scores.tril_()
    total = scores.sum(-1, keepdim=True)
    if counted_q is not met_q:
        pairs = counted_q @ counted_k.transpose(-1, -2)
        total = (pairs.tril_() if causal else pairs).sum(-1, keepdim=True)
    scale = q.shape[-1] ** -0.5 / count
    z = total * scale
    return (scores * (_sharpening(z) * scale) - z / count).masked_fill(~visible, 0.0), z


class _Form(NamedTuple):
    feature: Feature
    angles: Tensor | None
    angles_in_norm: bool


def _features(form: _Form, x: Tensor, part: slice = slice(None), mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``f(x)`` as the normaliser counts it, and as queries and keys meet it: the same unless positions turn them."""
    plain = masked(_FEATURES[form.feature](x), mask, part)
    if form.angles is None:
        return plain, plain
    met = turned(plain, form.angles[..., part, :])
    return (met if form.angles_in_norm else plain), met


def _combined(mixed: Tensor, z: Tensor, values: Tensor) -> Tensor:
    """``(1 + 1 / z) mixed - z values``: the scaled sum of values, and their mean."""
    return mixed * _sharpening(z) - z * values


def _sharpening(z: Tensor) -> Tensor:
    # z is negative only where turned features are counted; the small number then must not bring it closer to zero
    return 1 + torch.where(z < 0, z - _EPS, z + _EPS).reciprocal()


def _stream(
    form: _Form,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    state: MalaState | None,
    chunk_size: int,
) -> tuple[Tensor, MalaState]:
    """The causal form, segment by segment; also the state after it."""
    batch, _, time, head_dim = q.shape
    if state is None:
        first = precise(v[:, :, :1])
        none_yet = torch.zeros(batch, device=q.device, dtype=torch.int64)
        nothing = empty_sums(precise(k[:, :, :1]), first)
        state = MalaState(*nothing, torch.zeros_like(first[:, :, 0]), none_yet, v[:, 0, :0])
    sums, values = LinearState(state.keys_values, state.keys), state.values
    seen = torch.ones(batch, time, device=q.device, dtype=torch.int64) if mask is None else mask
    count = (seen.cumsum(-1) + state.time[:, None]).clamp_min(1)[:, None, :, None].to(values.dtype)
    mixed = []
    for part, q_part, k_part, v_part in pieces(whole_chunks(SEGMENT, chunk_size), q, k, v):
        counted_q, met_q = _features(form, q_part, part)
        counted_k, met_k = _features(form, k_part, part, mask)
        here = masked(precise(v_part), mask, part)
        counted = None if counted_q is met_q else (counted_q, counted_k)
        y, total, sums = mix_chunks(met_q, met_k, here, sums, chunk_size, counted)
        values_so_far, values = prefix_sums(here, values, chunk_size)
        scale = 1 / count[:, :, part]
        z = total * (scale * head_dim**-0.5)
        y = y * (_sharpening(z) * (scale * head_dim**-0.5)) - values_so_far * (z * scale)
        mixed.append(y.to(v.dtype))
    return joined(mixed), MalaState(*sums, values, state.time + time, state.recent)


def _one_position(form: _Form, q: Tensor, k: Tensor, v: Tensor, state: MalaState) -> tuple[Tensor, MalaState]:
    """The causal form for one position: the recurrence itself."""
    counted_q, met_q = _features(form, q)
    counted_k, met_k = _features(form, k)
    here, time = precise(v), state.time + 1
    keys_values = state.keys_values + met_k.transpose(-1, -2) @ here
    keys, values = state.keys + counted_k.squeeze(2), state.values + here.squeeze(2)
    count = time.to(here.dtype)[:, None, None, None]
    z = (counted_q @ keys.unsqueeze(-1)) * (q.shape[-1] ** -0.5 / count)
    y = met_q @ keys_values * (_sharpening(z) * (q.shape[-1] ** -0.5 / count)) - values.unsqueeze(2) * (z / count)
    return y.to(v.dtype), MalaState(keys_values, keys, values, time, state.recent)


def _reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool = False,
    mask: Tensor | None = None,
    angles: Tensor | None = None,
) -> Tensor:
    """The weights of each query over the keys it sees, one at a time."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=v.dtype)
    plain_q, plain_k = F.elu(q) + 1, F.elu(k) + 1
    met_q, met_k = turned(plain_q, angles), turned(plain_k, angles)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for t in range(q.shape[2]):
                visible = torch.ones(k.shape[2], dtype=torch.bool) if mask is None else mask[b].clone()
                if causal:
                    visible[t + 1 :] = False
                count = int(visible.sum())
                scale = q.shape[-1] ** -0.5 / count
                z = scale * (plain_k[b, h, visible] @ plain_q[b, h, t]).sum()
                weights = (1 + 1 / (z + _EPS)) * scale * (met_k[b, h, visible] @ met_q[b, h, t]) - z / count
                out[b, h, t] = weights @ v[b, h, visible]
    return out
