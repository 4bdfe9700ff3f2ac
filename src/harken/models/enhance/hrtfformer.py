"""HRTFformer: a listener's HRTF in every direction from a few measured ones (arXiv 2510.01891)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention.softmax import SoftmaxAttention
from harken.errors import CheckpointError, InputError
from harken.layers.iterative_projection import ConvNorm, IterativeProjection, conv_norm
from harken.models._base import Model, build
from harken.signal.spherical_harmonics import FieldsOnGrid, SphericalFit, mirrored, real_spherical_harmonics

TokenNorm = Literal["token-scale", "rms", "layer", "batch"]

# coefficients (or points) that come in, at least -> strides of the encoder's four stages
_STRIDES = ((19, (2, 2, 2, 1)), (10, (2, 2, 1, 1)), (6, (2, 1, 1, 1)), (0, (1, 1, 1, 1)))


@dataclass(frozen=True)
class HRTFformerConfig:
    """Sizes of :class:`HRTFformer`; the defaults are the paper's.

    Attributes:
        bins: frequencies per ear, ``(1 ... bins) * sample_rate / n_fft`` Hz.
        sample_rate, n_fft: what these frequencies are multiples of.
        input_degree: of the spherical harmonics that the measured directions are fitted with.
        degree: of those that come out.
        hidden, heads, groups: of attention; ``heads / groups`` queries share one key and value.
        layers: transformer blocks in each stage of the encoder.
        expansion: of the MLPs over their width.
        norm: after attention and MLP: ``"token-scale"`` (RMS without parameters), ``"rms"``, ``"layer"``, ``"batch"``.
        conv_norm: after convolutions: ``"batch"``, or ``"layer"`` for small batches.
        channel_cap: widest stage of the encoder.
        encoder_hidden, latent: of the bottleneck.
        decoder_width, decoder_length: of the decoder, and positions that it starts from.
        ups: turns of each iterative projection.
        directions: of the grid on which the mean of the training listeners is kept, which is taken away before and
            added after; 0 for none (the paper's way). What is left is then fitted as smoothly as the training listeners
            were (kriging), for any number of measured directions, and the network adds to that fit.
        kriging_degree: of that fit; the network hears its degrees up to ``input_degree``.
    """

    bins: int = 128
    sample_rate: int = 48000
    n_fft: int = 256
    input_degree: int = 3
    degree: int = 21
    hidden: int = 1024
    heads: int = 8
    groups: int = 2
    layers: int = 1
    expansion: int = 4
    norm: TokenNorm = "token-scale"
    conv_norm: ConvNorm = "batch"
    channel_cap: int = 2048
    encoder_hidden: int = 1024
    latent: int = 128
    decoder_width: int = 512
    decoder_length: int = 16
    ups: int = 5
    directions: int = 0
    kriging_degree: int = 15

    def __post_init__(self) -> None:
        if not (1 <= self.bins <= self.n_fft // 2 <= 4096 and self.sample_rate > 0):
            raise InputError(f"expected 1 <= bins <= n_fft / 2 <= 4096, got bins={self.bins} and n_fft={self.n_fft}")
        if not 0 <= self.input_degree <= self.degree <= 60:
            raise InputError(f"expected 0 <= input_degree <= degree <= 60, got {self.input_degree} and {self.degree}")
        if self.hidden % self.heads or self.heads % self.groups or (self.hidden // self.heads) % 2:
            raise InputError(
                f"hidden={self.hidden} must divide by heads={self.heads} into an even number, heads by {self.groups=}"
            )
        sizes = (
            self.layers,
            self.expansion,
            self.channel_cap,
            self.encoder_hidden,
            self.latent,
            self.decoder_width,
            self.ups - 1,
        )
        if min(sizes) < 1 or max(sizes) > 8192 or not 1 <= self.decoder_length <= 4096:
            raise InputError("layers, widths and latent must be 1 to 8192, ups at least 2")
        if not 0 <= self.directions <= 100_000:
            raise InputError(f"expected 0 to 100000 directions, got {self.directions}")
        if self.directions and not self.degree <= self.kriging_degree <= 60:
            raise InputError(f"expected degree={self.degree} <= kriging_degree <= 60, got {self.kriging_degree}")

    @property
    def coefficients(self) -> int:
        """That come out."""
        return (self.degree + 1) ** 2

    @property
    def frequencies(self) -> Float[Tensor, " bins"]:
        """Of one ear, Hz."""
        return torch.arange(1, self.bins + 1) * (self.sample_rate / self.n_fft)

    @classmethod
    def paper(cls, input_degree: int = 3) -> Self:
        """The paper's last configuration, for 18 or 19 measured directions unless another degree is asked for."""
        return cls(input_degree=input_degree)

    @classmethod
    def small(cls, directions: int = 1250) -> Self:
        """For a few dozen listeners and a CPU: one model for any number of measured directions, on top of kriging.

        The frequencies are 172 Hz to 18.1 kHz, the grid CIPIC's unless another number of directions is given.
        """
        return cls(
            bins=105,
            sample_rate=44100,
            input_degree=6,
            degree=10,
            hidden=48,
            heads=4,
            groups=2,
            expansion=1,
            norm="layer",
            conv_norm="batch",  # norms of single items forget what tells listeners apart
            channel_cap=210,
            encoder_hidden=128,
            latent=32,
            decoder_width=48,
            ups=2,
            directions=directions,
        )


class HRTFformer(Model):
    """Spherical-harmonic coefficients of a few directions to those of all: transformer, bottleneck, back-projection.

    Magnitudes are in dB, the left ear's frequencies before the right ear's. :meth:`forward` maps coefficients;
    :meth:`predict` goes from measured directions to any others, with the fit before it and the mean around it.

    Shape:
        - coefficients in: ``(batch, (input_degree + 1)^2, 2 * bins)``
        - out: ``(batch, (degree + 1)^2, 2 * bins)``
        - with ``directions``, both are ``(batch, (kriging_degree + 1)^2, 2 * bins)``

    >>> model = HRTFformer(HRTFformer.Config.small()).eval()
    >>> model(torch.randn(1, 256, 210)).shape  # of degree 15, of which the network changes what is up to 10
    torch.Size([1, 256, 210])
    """

    config: HRTFformerConfig
    slug: ClassVar[str] = "hrtfformer"
    Config: ClassVar[type[HRTFformerConfig]] = HRTFformerConfig
    grid: Tensor
    mean: Tensor
    scale: Tensor
    penalty: Tensor

    def __init__(self, config: HRTFformerConfig | None = None):
        super().__init__(config)
        c = self.config
        self.encoder, self.decoder = Encoder(c), Decoder(c)
        if c.directions:
            self.register_buffer("grid", torch.zeros(c.directions, 2))
            self.register_buffer("mean", torch.zeros(c.directions, 2 * c.bins))
            self.register_buffer("scale", torch.ones(2 * c.bins))
            self.register_buffer("penalty", torch.ones(c.kriging_degree + 1))
        self._grid: FieldsOnGrid | None = None
        self._initialise()

    def _initialise(self) -> None:
        if self.decoder.out.weight.is_meta:  # nothing to fill, and slow in not doing it
            return
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        if self.config.directions:  # begin with kriging, and add to it
            nn.init.zeros_(self.decoder.out.weight)

    def learn_listeners(
        self,
        fields: Float[Tensor, "listeners directions values"],
        directions: Float[Tensor, "directions 2"],
        penalty: Float[Tensor, " degrees"],
    ) -> None:
        """Keep the grid, the mean of the training listeners, their spread, and how smooth their differences are."""
        mean = fields.mean(0)
        self.grid.copy_(directions)
        self.mean.copy_(mean)
        self.scale.copy_((fields - mean).square().mean((0, 1)).sqrt().clamp_min(1e-3))
        self.penalty.copy_(penalty)
        self._grid = None

    def forward(self, coefficients: Float[Tensor, "batch sparse values"]) -> Float[Tensor, "batch dense values"]:
        """Dense coefficients of sparse ones."""
        if not self.config.directions:
            return self.decoder(self.encoder(coefficients))
        heard = coefficients[:, : (self.config.input_degree + 1) ** 2] / self.scale
        # the norms inside forget how far a listener is from the mean: it is taken out before, and put back
        size = heard.square().mean((1, 2), keepdim=True).sqrt().clamp_min(1e-3)
        made = self.decoder(self.encoder(heard / size)) * size * self.scale
        count = made.shape[1]
        return torch.cat((coefficients[:, :count] + made, coefficients[:, count:]), 1)

    @property
    def out_degree(self) -> int:
        """Of the coefficients that come out."""
        return self.config.kriging_degree if self.config.directions else self.config.degree

    def fit(self, measured: Float[Tensor, "points 2"]) -> SphericalFit:
        """The fit of measured directions, as the model wants it: computed once for all listeners on one grid."""
        c = self.config
        if not c.directions:
            return SphericalFit(measured.double(), c.input_degree)
        return SphericalFit(measured.double(), c.kriging_degree, ridge=1.0, penalty=self.penalty)

    def mean_field(self, directions: Float[Tensor, "directions 2"]) -> Float[Tensor, "directions values"]:
        """The mean of the training listeners, dB; zeros for a model that has none."""
        if not self.config.directions:
            return directions.new_zeros(len(directions), 2 * self.config.bins).float()
        if self._grid is None:
            self._grid = FieldsOnGrid(self.grid)
        return self._grid.at(self.mean, directions)

    def predict(
        self,
        magnitudes: Float[Tensor, "batch points values"],
        measured: Float[Tensor, "points 2"],
        wanted: Float[Tensor, "directions 2"],
    ) -> Float[Tensor, "batch directions values"]:
        """Magnitudes in the wanted directions of those in the measured ones.

        A model that keeps a mean hears the listener a second time in a mirror, and both answers are averaged: what it
        says does not depend on which ear is called left.

        Args:
            magnitudes: dB at :attr:`HRTFformerConfig.frequencies`, left ear then right.
            measured, wanted: azimuth and elevation, degrees.
        """
        coefficients = self.fit(measured).coefficients(magnitudes - self.mean_field(measured))
        made = self(coefficients)
        if self.config.directions:
            made = (made + self.mirror(self(self.mirror(coefficients)))) / 2
        return self.mean_field(wanted) + self.evaluate(made, wanted)

    def evaluate(
        self, coefficients: Float[Tensor, "batch dense values"], wanted: Float[Tensor, "directions 2"]
    ) -> Float[Tensor, "batch directions values"]:
        """The field of coefficients in any directions."""
        return real_spherical_harmonics(wanted.double(), self.out_degree).to(coefficients) @ coefficients

    @staticmethod
    def mirror(coefficients: Float[Tensor, "batch count values"]) -> Float[Tensor, "batch count values"]:
        """The listener with left and right exchanged."""
        return mirrored(torch.cat(coefficients.chunk(2, -1)[::-1], -1))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: HRTFformerConfig | None = None) -> Self:
        """Build from the authors' names; the configuration has to say which of their versions it is.

        Their public history holds no checkpoint; the decoder's names follow the newest text.
        """
        return build(lambda: cls(config or cls.Config()), own_names(state_dict))


class Encoder(nn.Module):
    """Four stages of attention over coefficients and a convolution that widens, then a bottleneck."""

    def __init__(self, c: HRTFformerConfig):
        super().__init__()
        width, count = 2 * c.bins, (c.input_degree + 1) ** 2
        strides = next(strides for least, strides in _STRIDES if count >= least)
        self.stages = nn.ModuleList()
        for stride in strides:
            wider = min(2 * width, max(c.channel_cap, width))
            self.stages.append(EncoderStage(c, width, wider, stride))
            width = wider
        self.to_latent = nn.Sequential(
            nn.Linear(width, c.encoder_hidden),
            flat_norm(c.conv_norm, c.encoder_hidden),
            nn.PReLU(),
            nn.Linear(c.encoder_hidden, c.latent),
        )

    def forward(self, x: Float[Tensor, "batch coefficients values"]) -> Float[Tensor, "batch latent"]:
        for stage in self.stages:
            x = stage(x)
        return self.to_latent(x.mean(1))


class EncoderStage(nn.Module):
    """Transformer blocks, then ``norm(gelu(conv))``."""

    def __init__(self, c: HRTFformerConfig, width: int, wider: int, stride: int):
        super().__init__()
        self.blocks = nn.Sequential(*(CoefficientBlock(width, c) for _ in range(c.layers)))
        self.down = Downsample(width, wider, stride, c.conv_norm)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch fewer wider"]:
        return self.down(self.blocks(x))


class Downsample(nn.Module):
    """``norm(gelu(conv(x)))`` along the coefficients."""

    def __init__(self, width: int, wider: int, stride: int, norm: ConvNorm):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(width, wider, 3, stride, 1), conv_norm(norm, wider)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch fewer wider"]:
        return self.norm(nn.functional.gelu(self.conv(x.mT))).mT


class CoefficientBlock(nn.Module):
    """``x = norm(x + attention(x))``, then ``norm(x + mlp(x))``: the norms come after, as in the first transformer."""

    def __init__(self, width: int, c: HRTFformerConfig):
        super().__init__()
        self.attention = grouped_attention(width, c)
        inner = c.expansion * width
        self.norm1, self.norm2 = token_norm(c.norm, width), token_norm(c.norm, width)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.ReLU(), nn.Linear(inner, width))

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


class Decoder(nn.Module):
    """A latent vector to a short sequence, doubled stage by stage until it holds every coefficient."""

    def __init__(self, c: HRTFformerConfig):
        super().__init__()
        self.count, self.length, self.width = c.coefficients, c.decoder_length, c.decoder_width
        stages = max(1, math.ceil(math.log2(c.coefficients / c.decoder_length)))
        self.from_latent = nn.Sequential(
            nn.Linear(c.latent, self.length * self.width),
            flat_norm(c.conv_norm, self.length * self.width),
            nn.PReLU(),
        )
        self.stages = nn.ModuleList(DecoderStage(c) for _ in range(stages))
        self.out = nn.Conv1d(self.width, 2 * c.bins, 3, padding=1)

    def forward(self, latent: Float[Tensor, "batch latent"]) -> Float[Tensor, "batch coefficients values"]:
        x = self.from_latent(latent).view(-1, self.length, self.width)
        for stage in self.stages:
            x = stage(x)
        return self.out(x[:, : self.count].mT).mT


class DecoderStage(nn.Module):
    """``norm(x + attention(x))``, then twice as long."""

    def __init__(self, c: HRTFformerConfig):
        super().__init__()
        self.attention = grouped_attention(c.decoder_width, c)
        self.norm = token_norm(c.norm, c.decoder_width)
        self.projection = IterativeProjection(c.decoder_width, c.decoder_width, ups=c.ups, norm=c.conv_norm)

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch doubled width"]:
        return self.projection(self.norm(x + self.attention(x)).mT).mT


def grouped_attention(width: int, c: HRTFformerConfig) -> SoftmaxAttention:
    """Grouped-query attention with rotary positions over the index of the coefficient."""
    return SoftmaxAttention(
        width, c.heads, head_dim=c.hidden // c.heads, kv_heads=c.groups, bias=False, rotary_base=10000.0
    )


def token_norm(kind: TokenNorm, width: int) -> nn.Module:
    """One of :data:`TokenNorm` for ``(batch, time, width)``.

    Raises:
        InputError: another name.
    """
    if kind in ("token-scale", "rms"):
        return nn.RMSNorm(width, eps=1e-8, elementwise_affine=kind == "rms")
    if kind == "layer":
        return nn.LayerNorm(width)
    if kind == "batch":
        return BatchNormOfTokens(width)
    raise InputError(f"norm must be token-scale, rms, layer or batch, got {kind!r}")


class BatchNormOfTokens(nn.BatchNorm1d):
    """Batch norm of ``(batch, time, width)``."""

    def forward(self, x: Float[Tensor, "batch time width"]) -> Float[Tensor, "batch time width"]:
        return super().forward(x.mT).mT


def flat_norm(kind: ConvNorm, width: int) -> nn.Module:
    """The same choice for ``(batch, width)``."""
    return nn.BatchNorm1d(width) if kind == "batch" else nn.LayerNorm(width)


def own_names(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The authors' parameter names in ours; queries, keys and values stacked.

    Raises:
        CheckpointError: a projection of keys or values is missing.
    """
    own: dict[str, Any] = {}
    for name, tensor in state_dict.items():
        if name.endswith(("_rope.inv_freq", "key_proj.weight", "value_proj.weight")):
            continue
        if name.endswith("query_proj.weight"):
            parts = [state_dict.get(name.replace("query", part)) for part in ("query", "key", "value")]
            if not all(isinstance(part, Tensor) and part.ndim == 2 for part in parts):
                raise CheckpointError(f"'{name}' has no key and value beside it: not an HRTFformer")
            try:
                tensor = torch.cat(parts)  # type: ignore[arg-type]
            except RuntimeError:
                raise CheckpointError(f"'{name}' and its key and value differ in width: not an HRTFformer") from None
        for pattern, replacement in _AUTHORS_NAMES:
            name = re.sub(pattern, replacement, name)
        own[name] = tensor
    return own


def _number(match: re.Match[str]) -> str:
    """``up3.up1.deconv`` is the first convolution of the third up, counted from 1; ``up3.conv.conv`` merges."""
    kind, number, place, part = match.group(1), int(match.group(2)) - 1, match.group(3), match.group(4)
    own = {"1": "first", "2": "second", "3": "third", "": "merge"}[place]
    return f"{kind}s.{number}.{own}.{'norm' if part == 'bn' else 'act' if part == 'act' else 'conv'}."


_AUTHORS_NAMES: tuple[tuple[str, Any], ...] = (
    (r"query_proj", "in_proj"),
    (r"\b(up|down)(\d+)\.(?:conv|up|down)([123]?)\.(deconv|conv|bn|act)\.", _number),
    (r"\bout_conv\.(conv|act)\.", r"out.\1."),
    (r"\bout_conv\.bn\.", "out.norm."),
    (r"^encoder\.layers\.(\d*[02468])\.layers\.", lambda m: f"encoder.stages.{int(m[1]) // 2}.blocks."),
    (r"^encoder\.layers\.(\d*[13579])\.", lambda m: f"encoder.stages.{int(m[1]) // 2}.down."),
    (r"^encoder\.fc\.", "encoder.to_latent."),
    (r"^decoder\.fc\.", "decoder.from_latent."),
    (r"^decoder\.layers\.(\d+)\.(?:layers\.0\.)?conv\.", r"decoder.stages.\1.projection."),
    (r"^decoder\.layers\.(\d+)\.(?:layers\.0\.)?norm1?\.", r"decoder.stages.\1.norm."),
    (r"^decoder\.layers\.(\d+)\.(?:layers\.0\.)?attention\.", r"decoder.stages.\1.attention."),
    (r"^decoder\.out_conv\.", "decoder.out."),
)
