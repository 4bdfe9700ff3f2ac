"""SEA's estimate of the attention map: kernel attention, a shared layer and a small CNN (arXiv 2310.01777).

Both orders give each row of the map compressed to ``map_width`` cells, and two gates per row, in linear time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.attention._base import precise
from harken.errors import CheckpointError

_CHUNK = 64  # positions that meet directly in the causal kernel attention
REACH = 4  # rows that a causal convolution looks back: (3 - 1) taps, 2 apart


class Estimate(NamedTuple):
    """What the estimator says.

    Shape:
        - scores: ``(batch, heads, time, map_width)``; a softmax over the cells makes them an attention map
        - gates: ``(batch, heads, time, 2)``, in (0, 1)
        - performer: ``(batch, heads, time, 2 head_dim)``, the kernel attention over ``[position | value]``
    """

    scores: Tensor
    gates: Tensor
    performer: Tensor


class EstimatorState(NamedTuple):
    """What the causal estimator carries from row to row; constant in size.

    Shape:
        - features, features_values: ``(batch, heads, features)`` and ``(batch, heads, features, 2 head_dim)``, sums
        - rows, hidden_rows: ``(batch, 2 heads, 4, map_width / 4)``, what the two convolutions look back at
    """

    features: Tensor
    features_values: Tensor
    rows: Tensor
    hidden_rows: Tensor


class _Estimator(nn.Module):
    """What both orders share: random features, the layer ``e`` over ``[kernel attention | value]``, rows and gates."""

    projection: Tensor

    def __init__(self, heads: int, head_dim: int, map_width: int, features: int, splits: int, row: int, seed: int):
        super().__init__()
        self.heads, self.head_dim, self.map_width, self.splits = heads, head_dim, map_width, splits
        self.register_buffer("projection", orthogonal_features(features, head_dim, seed))
        self.encoder = nn.Sequential(nn.Linear(3 * head_dim, 2 * head_dim), nn.LayerNorm(2 * head_dim), nn.GELU())
        self.gates = nn.Linear(2 * head_dim, 2)
        self.map_rows = nn.Linear(2 * head_dim, splits * row)

    def encode(self, performer: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """The map before its convolutions, ``(batch, splits * heads, time, row)``, and the gates."""
        batch, heads, time, _ = v.shape
        encoded = self.encoder(torch.cat((performer.to(v.dtype), v), -1))
        rows = self.map_rows(encoded).view(batch, heads, time, self.splits, -1).transpose(2, 3)
        return rows.reshape(batch, heads * self.splits, time, -1), self.gates(encoded).sigmoid()

    def shared_flops(self, positions: int) -> int:
        """Of the features of queries and keys, and of the linear layers."""
        d, features = self.head_dim, self.projection.shape[0]
        return positions * (4 * d * features + 12 * d * d + 8 * d + 4 * d * self.map_rows.out_features)


class CausalEstimator(_Estimator):
    """Estimate row ``t`` from what came up to ``t``: ReLU features, learned positions, convolutions.

    Args:
        heads, head_dim: of the attention.
        map_width: cells of the map; a multiple of 4.
        features: of the kernel attention.
        max_positions: rows of the position code; later positions share the last.
        seed: of the random features.
    """

    def __init__(self, heads: int, head_dim: int, map_width: int, features: int, max_positions: int, seed: int):
        super().__init__(heads, head_dim, map_width, features, 2, map_width // 4, seed)
        self.positions = nn.Parameter(torch.randn(max_positions, head_dim))
        self.row_norm = nn.LayerNorm(map_width // 4)
        self.conv1 = nn.Conv2d(2 * heads, 2 * heads, 3, padding=(0, 2), dilation=2)
        self.conv2 = nn.Conv2d(2 * heads, 2 * heads, 3, padding=(0, 2), dilation=2)
        self.conv3 = nn.Conv2d(2 * heads, heads, 1, bias=False)
        self.map_bias = nn.Parameter(self.conv3.weight.new_empty(heads).uniform_(-1, 1) / (2 * heads) ** 0.5)
        self.map_norm = nn.LayerNorm(map_width)
        # neighbouring cells come from one upsampled value: a small start keeps them from being tied
        nn.init.normal_(self.map_norm.bias, std=0.02)

    def forward(
        self,
        q: Float[Tensor, "batch heads rows head_dim"],
        k: Float[Tensor, "batch heads rows head_dim"],
        v: Float[Tensor, "batch heads rows head_dim"],
        first: int,
        state: EstimatorState,
    ) -> tuple[Estimate, EstimatorState]:
        """The rows from position ``first`` on, and the state after them; ``q`` is scaled by ``head_dim ** -0.5``."""
        d, rows = self.head_dim, q.shape[2]
        projection = precise(self.projection).T * d**-0.25
        features_q, features_k = ((precise(x) @ projection).relu() + 1e-3 for x in (q, k))
        place = torch.arange(first, first + rows, device=q.device).clamp_max(self.positions.shape[0] - 1)
        coded = torch.cat((self.positions[place].expand(v.shape), v), -1)
        performer, features, features_values = _kernel_attention(features_q, features_k, precise(coded), state)
        x, gates = self.encode(performer, v)
        x = torch.cat((state.rows.to(x.dtype), self.row_norm(x)), 2)
        hidden = torch.cat((state.hidden_rows.to(x.dtype), self.conv1(x).relu()), 2)
        y = F.conv2d(self.conv2(hidden).relu(), self.conv3.weight)
        # upsampled by 4, padded by one, shrunk by area to map_width: each cell is the mean of two neighbours
        y = F.pad(y.repeat_interleave(4, -1), (1, 1))
        y = 0.5 * (y[..., :-1] + y[..., 1:])
        half = self.map_width // 2
        y = torch.cat((y[..., :half], y[..., half + 1 :]), -1) + self.map_bias[:, None, None]
        state = EstimatorState(features, features_values, _last_rows(x), _last_rows(hidden))
        return Estimate(precise(self.map_norm(y)), gates, performer), state

    def start(self, batch: int, device: torch.device, dtype: torch.dtype) -> EstimatorState:
        """The state before the first row."""
        zeros = torch.zeros(batch, self.heads, self.projection.shape[0], device=device, dtype=dtype)
        rows = zeros.new_zeros(batch, 2 * self.heads, REACH, self.map_width // 4)
        return EstimatorState(zeros, zeros.new_zeros(*zeros.shape, 2 * self.head_dim), rows, rows)

    def flops(self, batch: int, rows: int) -> int:
        """Of one call."""
        d, heads, features = self.head_dim, self.heads, self.projection.shape[0]
        size = min(_CHUNK, rows)
        padded = batch * heads * -(-rows // size) * size
        kernel = padded * (2 * size * (features + 2 * d) + 8 * d * features + 2 * features)
        convolutions = batch * rows * heads * heads * self.map_width * (18 + 18 + 1)
        return self.shared_flops(batch * heads * rows) + kernel + convolutions


class BidirectionalEstimator(_Estimator):
    """Estimate all rows from the whole sequence: softmax features, positions smeared over ``head_dim`` bins, a CNN.

    Args:
        heads, head_dim: of the attention.
        map_width: cells of the map; even.
        features: of the kernel attention.
        seed: of the random features.
        legacy: let padded positions reach the estimate of real ones, as in the released code.
    """

    def __init__(self, heads: int, head_dim: int, map_width: int, features: int, seed: int, legacy: bool):
        super().__init__(heads, head_dim, map_width, features, 4, map_width // 2, seed)
        self.legacy = legacy
        self.conv1 = nn.Conv2d(4 * heads, 4 * heads, 3, padding=1, stride=(2, 1))
        self.conv2 = nn.Conv2d(4 * heads, 4 * heads, 3, padding=1)
        self.conv3 = nn.Conv2d(4 * heads, heads, 3, padding=1)

    def forward(
        self,
        q: Float[Tensor, "batch heads time head_dim"],
        k: Float[Tensor, "batch heads time head_dim"],
        v: Float[Tensor, "batch heads time head_dim"],
        lengths: Int[Tensor, " batch"] | None,
    ) -> Estimate:
        """All rows; ``lengths`` counts the real positions of each item: they come first, values after them are 0."""
        time = q.shape[2]
        alone = None if self.legacy else lengths
        features_q = _softmax_features(q, self.projection)
        features_k = _softmax_features(k, self.projection, of_keys=True, lengths=alone)
        coded = precise(torch.cat((self._position_code(v, lengths), v), -1))
        total = features_q @ features_k.sum(-2).unsqueeze(-1)
        performer = features_q @ (features_k.transpose(-1, -2) @ coded) / total.clamp_min(1e-30)
        x, gates = self.encode(performer, v)
        half = None if alone is None else (alone + 1) // 2
        x = self.conv1(_until(x, alone)).relu()
        x = self.conv2(_until(x, half)).relu()
        y = self.conv3(_until(x, half).repeat_interleave(2, 2))
        if alone is not None:
            y = _resized_rows(y, alone, time)
        y = F.interpolate(y, (time, self.map_width), mode="bilinear")
        return Estimate(precise(y), gates, performer)

    def _position_code(self, v: Tensor, lengths: Tensor | None) -> Tensor:
        """The rank among the real positions, in [0, 1], as a smeared one-hot vector; zero at padding."""
        time, d = v.shape[2:]
        ranks = torch.arange(time, device=v.device)
        count = torch.full((1, 1), time, device=v.device) if lengths is None else lengths[:, None]
        place = ranks / (count - 1).clamp_min(1) * (d - 1)
        code = (1 - (place.unsqueeze(-1) - torch.arange(d, device=v.device)).abs()).clamp_min(0.0)
        code = code * (ranks < count).unsqueeze(-1)
        return code[:, None].expand(v.shape).to(v.dtype)

    def flops(self, batch: int, time: int) -> int:
        """Of one call."""
        d, heads, features = self.head_dim, self.heads, self.projection.shape[0]
        kernel = batch * heads * time * (8 * d * features + 2 * features)
        half = -(-time // 2)
        convolutions = batch * 4 * heads * heads * 9 * self.map_width * half * (4 + 4 + 2)
        return self.shared_flops(batch * heads * time) + kernel + convolutions


def authors_names(causal: bool) -> dict[str, str]:
    """Our name of each part of an estimator -> the authors'."""
    names = {"encoder.0": "enc.0", "encoder.1": "enc.1", "gates": "dec_scaler.0", "map_rows": "dec_row.0"}
    places = (("conv1", 0), ("conv2", 2), ("conv3", 5))
    if causal:
        names |= {conv: f"cnn.1.module.net.{place}.module" for conv, place in places}
        names |= {"row_norm": "cnn.0.module", "map_norm": "cnn.2.module"}
    else:
        names |= {conv: f"cnn.0.net.{place}" for conv, place in places}
    return {ours: f"attention_predictor_{theirs}" for ours, theirs in names.items()}


def authors_weights(state_dict: Mapping[str, Tensor], causal: bool) -> dict[str, Tensor]:
    """The authors' estimator under our names.

    Raises:
        CheckpointError: a parameter is missing.
    """
    try:
        weights = {
            f"{ours}.{part}": state_dict[f"{theirs}.{part}"]
            for ours, theirs in authors_names(causal).items()
            for part in ("weight", "bias")
        }
        weights["projection"] = state_dict["performer.projection_matrix"]
        if causal:
            weights["positions"] = state_dict["v_eye_learned_causal"][0, 0]
            for conv in ("conv1.weight", "conv2.weight", "conv3.weight"):  # theirs holds masked rows of the future too
                weights[conv] = weights[conv][:, :, : (weights[conv].shape[2] + 1) // 2]
            weights["map_bias"] = weights.pop("conv3.bias")
    except KeyError as missing:
        raise CheckpointError(f"not the authors' SEA attention: it has no {missing}") from None
    return weights


def orthogonal_features(features: int, dim: int, seed: int) -> Tensor:
    """Random directions, orthogonal in groups of ``dim``, as long as Gaussian vectors: ``(features, dim)``."""
    generator = torch.Generator().manual_seed(seed)
    blocks = [torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q.T for _ in range(math.ceil(features / dim))]
    lengths = torch.randn(features, dim, generator=generator).norm(dim=1)
    return torch.cat(blocks)[:features] * lengths[:, None]


def _kernel_attention(q: Tensor, k: Tensor, v: Tensor, state: EstimatorState) -> tuple[Tensor, Tensor, Tensor]:
    """Causal attention by a product of features, chunk by chunk, and the sums after it."""
    time = q.shape[2]
    size = min(_CHUNK, time)
    chunks = -(-time // size)
    missing = chunks * size - time
    if missing:
        q, k, v = (F.pad(part, (0, 0, 0, missing)) for part in (q, k, v))
    q, k, v = (part.unflatten(2, (chunks, size)) for part in (q, k, v))
    scores = (q @ k.transpose(-1, -2)).tril()
    values = torch.cat((state.features_values.unsqueeze(2), k.transpose(-1, -2) @ v), 2).cumsum(2)
    keys = torch.cat((state.features.unsqueeze(2), k.sum(-2)), 2).cumsum(2)
    total = scores.sum(-1, keepdim=True) + q @ keys[:, :, :-1].unsqueeze(-1) + 1e-6 * q.sum(-1, keepdim=True)
    mixed = (scores @ v + q @ values[:, :, :-1]) / total.clamp_min(1e-30)
    return mixed.flatten(2, 3)[:, :, :time], keys[:, :, -1].clone(), values[:, :, -1].clone()


def _softmax_features(x: Tensor, projection: Tensor, *, of_keys: bool = False, lengths: Tensor | None = None) -> Tensor:
    """Positive random features of the softmax kernel (FAVOR+), zero beyond ``lengths``."""
    x, projection = precise(x), precise(projection)
    dashed = x @ projection.T * x.shape[-1] ** -0.25
    real = None
    if lengths is not None:
        real = (torch.arange(x.shape[2], device=x.device) < lengths[:, None])[:, None, :, None]
        dashed = dashed.masked_fill(~real, -1e30)
    peak = dashed.detach().amax((-1, -2) if of_keys else -1, keepdim=True)
    exponent = dashed - x.square().sum(-1, keepdim=True) * 0.5 * x.shape[-1] ** -0.5 - peak
    features = projection.shape[0] ** -0.5 * (exponent.exp() + 1e-4)
    return features if real is None else features.masked_fill(~real, 0.0)


def _until(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Rows at and beyond each item's length become zero, as a convolution's own padding is."""
    if lengths is None:
        return x
    return x.masked_fill(torch.arange(x.shape[2], device=x.device)[:, None] >= lengths[:, None, None, None], 0.0)


def _resized_rows(x: Tensor, lengths: Tensor, time: int) -> Tensor:
    """The first rows of each item, an even number, resized to its length by bilinear interpolation."""
    length = lengths.clamp_min(1)[:, None]
    rows = (length + 1) // 2 * 2
    place = ((torch.arange(time, device=x.device) + 0.5) * (rows / length) - 0.5).clamp_min(0.0)
    below = place.floor().long().clamp_max(x.shape[2] - 1)
    above = torch.minimum(below + 1, rows - 1).clamp_max(x.shape[2] - 1)
    share = (place - below).to(x.dtype)[:, None, :, None]
    below, above = (
        x.gather(2, index[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3])) for index in (below, above)
    )
    return below + share * (above - below)


def _last_rows(x: Tensor) -> Tensor:
    return precise(x[:, :, -REACH:]).clone()
