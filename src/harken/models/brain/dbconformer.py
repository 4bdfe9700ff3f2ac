"""DBConformer: decode trials with one branch over time and one over channels (arXiv 2506.21140)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention import ProjectedAttention, create_attention
from harken.errors import CheckpointError, InputError
from harken.layers.transformer import TransformerBlock
from harken.models._base import Model, build
from harken.observation import emit

Branch = Literal["both", "temporal", "spatial"]
Fusion = Literal["concatenate", "gate"]


@dataclass(frozen=True)
class DBConformerConfig:
    """Sizes and choices of :class:`DBConformer`; the defaults are those of four seconds of 22 electrodes at 250 Hz.

    Attributes:
        channels, samples, classes: of a trial, and what there is to choose from.
        patch: samples of a temporal token; what is left behind the last whole patch is not looked at.
        dim, heads: width of the tokens in both branches, and heads of the attention.
        temporal_layers, spatial_layers: depth of the two encoders.
        kernel_size: of the convolution over time, odd.
        spatial_filters: of the convolution that summarises a channel.
        attention: any bidirectional mechanism, in both branches.
        branch: ``both``, or one alone for an ablation.
        fusion: the branches side by side, or weighed by a learned gate (which the paper found worse).
        channel_attention: weigh channels by learned scores; without it their mean is taken.
        positions: add learned tables of places to the tokens.
        dropout: of tokens, encoders and head. The mechanisms' weights themselves are not dropped.
    """

    channels: int = 22
    samples: int = 1001
    classes: int = 4
    patch: int = 125
    dim: int = 40
    heads: int = 10
    temporal_layers: int = 2
    spatial_layers: int = 2
    kernel_size: int = 63
    spatial_filters: int = 16
    attention: str = "softmax"
    branch: Branch = "both"
    fusion: Fusion = "concatenate"
    channel_attention: bool = True
    positions: bool = True
    dropout: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is int and not 1 <= value <= 1 << 20:
                raise InputError(f"expected {field.name} of 1 or more, got {value}")
        if max(self.temporal_layers, self.spatial_layers) > 1000:
            raise InputError("expected at most 1000 layers")
        if self.patch > self.samples:
            raise InputError(f"a patch of {self.patch} samples is longer than a trial of {self.samples}")
        if self.kernel_size % 2 == 0:
            raise InputError(f"expected an odd kernel_size, got {self.kernel_size}")
        if self.branch not in get_args(Branch) or self.fusion not in get_args(Fusion):
            raise InputError("expected branch of both, temporal or spatial, and fusion of concatenate or gate")
        if not 0 <= self.dropout < 1:
            raise InputError(f"expected dropout of 0 up to, but not, 1, got {self.dropout}")

    @property
    def patches(self) -> int:
        """Temporal tokens of a trial."""
        return self.samples // self.patch

    @property
    def gated(self) -> bool:
        """Whether a gate weighs the branches: one branch alone leaves nothing to weigh."""
        return self.fusion == "gate" and self.branch == "both"

    @property
    def pooled_by_attention(self) -> bool:
        """Whether channels have learned scores; with a gate or alone, the spatial branch is averaged."""
        return self.channel_attention and self.branch == "both" and self.fusion == "concatenate"

    @classmethod
    def small(cls) -> Self:
        """Six channels, 3.5 s at 64 Hz, two classes: trains in half a minute."""
        return cls(channels=6, samples=224, classes=2, patch=28, dim=20, heads=5, temporal_layers=1, spatial_layers=1)


class Encoded(NamedTuple):
    """What the branches make of trials; None for a branch that there is not.

    Attributes:
        temporal_tokens, temporal: patches before their places are added, and behind the encoder, ``(batch, patches,
            dim)``.
        spatial_tokens, spatial: the same of channels, ``(batch, channels, dim)``.
        channel_scores: before the softmax, ``(batch, channels, 1)``; None without channel attention.
        features: what the head reads, ``(batch, dim)`` or ``(batch, 2 dim)``.
    """

    temporal_tokens: Tensor | None
    temporal: Tensor | None
    spatial_tokens: Tensor | None
    spatial: Tensor | None
    channel_scores: Tensor | None
    features: Tensor


class DBConformer(Model):
    """Patches of time attend to each other in one branch, channels in the other; their summaries meet in the head.

    ``[mean_p temporal_p ; sum_c a_c spatial_c]``, ``a = softmax_c(w^T tanh(W spatial_c))``: where ``a`` looks on the
    head is emitted as ``channel_attention``. Attention scores are scaled by ``1 / sqrt(dim)``, for which the weights of
    the queries are ``sqrt(heads)`` times smaller than usual.

    In evaluation the batch norms are merged into the convolutions before them.

    Shape:
        - trials: ``(batch, channels, samples)``, of about unit size; fewer or more samples are fine, up to as many
          patches as it was built for
        - mask: ``(batch, channels)``, True where a channel was recorded
        - logits: ``(batch, classes)``

    >>> model = DBConformer(DBConformerConfig.small()).eval()
    >>> model(torch.zeros(3, 6, 224)).shape
    torch.Size([3, 2])
    >>> sum(p.numel() for p in DBConformer(DBConformerConfig(classes=2)).parameters())
    93747
    """

    slug = "dbconformer"
    Config: ClassVar[type[DBConformerConfig]] = DBConformerConfig
    config: DBConformerConfig

    def __init__(self, config: DBConformerConfig | None = None):
        super().__init__(config)
        c = self.config
        if c.branch != "spatial":
            self.temporal_stem = TemporalStem(c.channels, c.dim, c.kernel_size, c.patch, c.dropout)
            self.temporal_encoder = nn.ModuleList(_block(c) for _ in range(c.temporal_layers))
            self.temporal_positions = _table(c.patches, c)
        if c.branch != "temporal":
            self.spatial_stem = SpatialStem(c.spatial_filters, c.dim)
            self.spatial_encoder = nn.ModuleList(_block(c) for _ in range(c.spatial_layers))
            self.spatial_positions = _table(c.channels, c)
        if c.gated:
            self.gate = nn.Linear(2 * c.dim, c.dim)
        if c.pooled_by_attention:
            self.channel_scores = nn.Sequential(nn.Linear(c.dim, c.dim), nn.Tanh(), nn.Linear(c.dim, 1))
        features = 2 * c.dim if c.branch == "both" and not c.gated else c.dim
        self.head = nn.Sequential(
            nn.Linear(features, 64),
            nn.ELU(),
            nn.Dropout(c.dropout),
            nn.Linear(64, 32),
            nn.ELU(),
            nn.Dropout(0.6 * c.dropout),
            nn.Linear(32, c.classes),
        )

    def forward(
        self,
        x: Float[Tensor, "batch channels samples"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Logits of each trial's class.

        Raises:
            InputError: another number of channels, too few samples for one patch, or more patches than there are
                places for.
        """
        return self.head(self.encode(x, mask=mask).features)

    def encode(
        self,
        x: Float[Tensor, "batch channels samples"],
        *,
        mask: Bool[Tensor, "batch channels"] | None = None,
    ) -> Encoded:
        """Everything before the head."""
        c = self.config
        if x.ndim != 3 or x.shape[1] != c.channels:
            raise InputError(f"expected (batch, {c.channels}, samples), got {tuple(x.shape)}: mask missing channels")
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)
        temporal_tokens = temporal = spatial_tokens = spatial = scores = None
        over_time = over_channels = None
        if c.branch != "spatial":
            temporal_tokens = self.temporal_stem(x)
            temporal = temporal_tokens + _places(self.temporal_positions, temporal_tokens.shape[1])
            for block in self.temporal_encoder:
                temporal = block(temporal)
            over_time = temporal.mean(1)
        if c.branch != "temporal":
            spatial_tokens = self.spatial_stem(x)
            spatial = spatial_tokens + _places(self.spatial_positions, c.channels)
            for block in self.spatial_encoder:
                spatial = block(spatial, mask=mask)
            if c.pooled_by_attention:
                scores = self.channel_scores(spatial)
            weights = _channel_weights(spatial if scores is None else scores, mask, learned=scores is not None)
            emit(self, "channel_attention", weights[..., 0])
            over_channels = (weights * spatial).sum(1)
        if over_time is None or over_channels is None:
            features = over_channels if over_time is None else over_time
            assert features is not None  # one branch there always is
        elif c.gated:
            gate = torch.sigmoid(self.gate(torch.cat((over_time, over_channels), -1)))
            features = gate * over_channels + (1 - gate) * over_time
        else:
            features = torch.cat((over_time, over_channels), -1)
        return Encoded(temporal_tokens, temporal, spatial_tokens, spatial, scores, features)

    def channel_attention(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch channels"]:
        """How much each channel weighs in each trial; rows sum to 1.

        Raises:
            InputError: the model has no channel attention.
        """
        scores = self.encode(x).channel_scores
        if scores is None:
            raise InputError("this DBConformer has no channel attention: build it with branch='both'")
        return scores.softmax(1)[..., 0]

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: DBConformerConfig | None = None) -> Self:
        """A model with the weights of the authors' ``DBConformer``.

        Args:
            state_dict: their parameters, by their names.
            config: sizes. None reads them off the shapes, which do not tell ``patch`` (taken to be 125).
        """
        try:
            given = {name: tensor for name, tensor in state_dict.items() if "num_batches_tracked" not in name}
            config = config or _config_of(given)
            state = _from_theirs(given, config)
        except (KeyError, AttributeError, IndexError, TypeError, InputError, RuntimeError, ValueError) as problem:
            raise CheckpointError(f"these are not weights of a DBConformer: {str(problem)[:100]}") from None
        return build(lambda: cls(config), state)


class TemporalStem(nn.Module):
    """Mixtures of channels, a convolution over time for each, and means over patches.

    Shape: ``(batch, channels, samples)`` to ``(batch, patches, dim)``.
    """

    def __init__(self, channels: int, dim: int, kernel_size: int, patch: int, dropout: float):
        super().__init__()
        self.patch = patch
        self.mix = nn.Conv1d(channels, dim, 1, bias=False)
        self.mix_norm = nn.BatchNorm1d(dim)
        self.filter = nn.Conv1d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=False)
        self.filter_norm = nn.BatchNorm1d(dim)
        self.dropout = nn.Dropout(dropout)
        for conv in (self.mix, self.filter):
            nn.init.trunc_normal_(conv.weight, std=0.01)

    def forward(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch patches dim"]:
        if x.shape[-1] < self.patch:
            raise InputError(f"trials of {x.shape[-1]} samples are too short for a patch of {self.patch}")
        if self.training:
            x = self.filter_norm(_filter_each(self.mix_norm(self.mix(x)), self.filter.weight[:, 0]))
        else:
            x = self._merged(x)
        return self.dropout(F.avg_pool1d(F.gelu(x), self.patch, self.patch).transpose(1, 2))

    def _merged(self, x: Tensor) -> Tensor:
        """Both norms as scales and shifts of the convolutions: two passes over the signal instead of four."""
        scale, shift = _scale_and_shift(self.mix_norm)
        x = F.conv1d(x, self.mix.weight * scale[:, None, None], shift)
        scale, shift = _scale_and_shift(self.filter_norm)
        return _filter_each(x, self.filter.weight[:, 0] * scale[:, None]) + shift[:, None]


class SpatialStem(nn.Module):
    """Each channel by itself: a convolution over time, its mean, and a matrix.

    Shape: ``(batch, channels, samples)`` to ``(batch, channels, dim)``.
    """

    def __init__(self, filters: int, dim: int, kernel_size: int = 25, stride: int = 5):
        super().__init__()
        self.filter = nn.Conv1d(1, filters, kernel_size, stride=stride, padding=kernel_size // 2)
        self.out = nn.Linear(filters, dim)

    def forward(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch channels dim"]:
        # one product over all windows: faster than a convolution of a single input channel
        width = self.filter.kernel_size[0]
        windows = F.pad(x.flatten(0, 1), (width // 2, width // 2)).unfold(-1, width, self.filter.stride[0])
        filtered = F.elu(F.linear(windows, self.filter.weight[:, 0], self.filter.bias))
        return self.out(filtered.mean(-2)).unflatten(0, x.shape[:2])


def _filter_each(
    x: Float[Tensor, "batch dim samples"], kernels: Float[Tensor, "dim taps"]
) -> Float[Tensor, "batch dim samples"]:
    """Every row by its own kernel, of odd length, zeros around: a depthwise convolution.

    By Fourier transform on CPUs, where PyTorch's own takes five times as long with 63 taps.
    """
    taps, samples = kernels.shape[1], x.shape[-1]
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return F.conv1d(x, kernels[:, None], padding=taps // 2, groups=len(kernels))
    size = samples + taps - 1
    while max(_prime_factors(size)) > 5:  # lengths that transforms are fast at
        size += 1
    spectrum = torch.fft.rfft(x, size) * torch.fft.rfft(kernels.flip(-1), size)
    return torch.fft.irfft(spectrum, size)[..., taps // 2 : taps // 2 + samples]


@lru_cache(maxsize=4096)
def _prime_factors(number: int) -> tuple[int, ...]:
    factors, divisor = [1], 2
    while number > 1:
        if number % divisor == 0:
            factors.append(divisor)
            number //= divisor
        else:
            divisor += 1
    return tuple(factors)


def _block(c: DBConformerConfig) -> TransformerBlock:
    attention = create_attention(c.attention, dim=c.dim, heads=c.heads)
    if isinstance(attention, ProjectedAttention):
        with torch.no_grad():  # 1 / sqrt(dim) instead of 1 / sqrt(head_dim)
            attention.in_proj.weight[: c.dim] *= c.heads**-0.5
    return TransformerBlock(c.dim, attention, dropout=c.dropout)


def _table(places: int, c: DBConformerConfig) -> nn.Parameter | None:
    return nn.Parameter(torch.randn(places, c.dim)) if c.positions else None


def _places(table: nn.Parameter | None, count: int) -> Tensor | float:
    if table is None:
        return 0.0
    if count > len(table):
        raise InputError(f"the trials have {count} patches, the model knows {len(table)} places: give shorter trials")
    return table[:count]


def _channel_weights(scores: Tensor, mask: Tensor | None, *, learned: bool) -> Tensor:
    """What each channel weighs, ``(batch, channels, 1)``: by learned scores, or all alike; a missing one nothing."""
    scores = scores if learned else torch.zeros_like(scores[..., :1])
    if mask is not None:
        scores = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min)
    return scores.softmax(1)


def _scale_and_shift(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


def _config_of(given: Mapping[str, Any]) -> DBConformerConfig:
    """What the shapes tell; a model that never knew places is taken to be of the usual length."""
    dim, channels, _ = given["embedding.stem.sconv.conv.weight"].shape
    table = given.get("pos_embedding_temporal")
    patches = 8 if table is None else table.shape[1]
    patch = DBConformerConfig.patch
    pooled, gated = "spatial_attn_pool.0.weight" in given, "gate_fc.fc.weight" in given
    return DBConformerConfig(
        channels=channels,
        samples=patches * patch,
        classes=given["classifier.fc.6.weight"].shape[0],
        patch=patch,
        dim=dim,
        temporal_layers=1 + max(int(name.split(".")[1]) for name in given if name.startswith("temporal_transformer.")),
        spatial_layers=1 + max(int(name.split(".")[1]) for name in given if name.startswith("spatial_transformer.")),
        kernel_size=given["embedding.stem.tconv.0.conv.weight"].shape[-1],
        spatial_filters=given["channel_embedding.encoder.0.weight"].shape[0],
        fusion="gate" if gated else "concatenate",
        channel_attention=pooled,
        positions=table is not None,
    )


_STEMS = {
    "embedding.stem.sconv.conv": "temporal_stem.mix",
    "embedding.stem.sconv.bn": "temporal_stem.mix_norm",
    "embedding.stem.tconv.0.conv": "temporal_stem.filter",
    "embedding.stem.tconv.0.bn": "temporal_stem.filter_norm",
    "channel_embedding.encoder.0": "spatial_stem.filter",
    "channel_embedding.encoder.4": "spatial_stem.out",
    "spatial_attn_pool": "channel_scores",
    "gate_fc.fc": "gate",
    "classifier.fc": "head",
}
_BLOCK = {
    "0.fn.0": "norm1",
    "0.fn.1.projection": "attention.out_proj",
    "1.fn.0": "norm2",
    "1.fn.1.0": "ffn.0",
    "1.fn.1.3": "ffn.2",
}


def _from_theirs(given: Mapping[str, Any], c: DBConformerConfig) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    queries: dict[str, dict[str, Tensor]] = {}
    for name, tensor in given.items():
        branch, _, rest = name.partition("_transformer.")
        if name.startswith("pos_embedding_"):
            state[f"{name.removeprefix('pos_embedding_')}_positions"] = tensor[0]
        elif rest:
            layer, _, inner = rest.partition(".")
            part, _, kind = inner.rpartition(".")
            where = f"{branch}_encoder.{layer}"
            if part in _BLOCK:
                state[f"{where}.{_BLOCK[part]}.{kind}"] = tensor
            elif part.startswith("0.fn.1."):
                queries.setdefault(f"{where}.attention.in_proj.{kind}", {})[part.removeprefix("0.fn.1.")] = tensor
            else:
                state[name] = tensor
        else:
            stem = next((known for known in _STEMS if name.startswith(f"{known}.")), "")
            state[_STEMS.get(stem, stem) + name.removeprefix(stem)] = tensor
    for name, parts in queries.items():
        scaled = parts.pop("queries") / math.sqrt(c.heads)
        state[name] = torch.cat((scaled, parts.pop("keys"), parts.pop("values")))
    for norm in ("mix_norm", "filter_norm"):
        state[f"temporal_stem.{norm}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    # the authors' class holds both branches, and a gate, also where an option leaves them out
    unused = {"temporal": "spatial_", "spatial": "temporal_"}.get(c.branch, "-")
    return {name: t for name, t in state.items() if not name.startswith(unused) and (c.gated or name[:5] != "gate.")}
