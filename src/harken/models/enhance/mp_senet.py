"""MP-SENet: enhance speech by estimating magnitude and phase in parallel (arXiv 2308.08926)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention import create_attention
from harken.errors import CheckpointError, InputError
from harken.layers.conformer import ConformerBlock
from harken.layers.gru import add_bidirectional_gru
from harken.layers.inference import only_computes
from harken.models._base import build
from harken.models.enhance.codec import CodecConfig, SpectrumEnhancer


@dataclass(frozen=True)
class MPSENetConfig(CodecConfig):
    """Sizes and choices of :class:`MPSENet`; the defaults are the paper's.

    Attributes:
        core: what mixes a sequence: ``"transformer"``, or the ``"conformer"`` of the short paper (arXiv 2305.13686).
        attention: any bidirectional mechanism of :func:`harken.list_attention`.
        ffn: feed-forward part of a transformer: ``"gru"`` (the paper's) or ``"conv"`` (far quicker on a CPU).
        axes: the order in which a block visits the axes. The released code reads ``(batch, sequence)`` tensors as
            ``(sequence, batch)``; for one utterance at a time that is this order swapped, ``("freq", "time")``.
        legacy: also mix the items of a batch as the released code does; only to reproduce it.

    The others are those of :class:`~harken.models.enhance.codec.CodecConfig`.
    """

    core: Literal["transformer", "conformer"] = "transformer"
    attention: str = "softmax"
    ffn: Literal["gru", "conv"] = "gru"
    axes: tuple[str, str] = ("time", "freq")
    legacy: bool = False

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **CodecConfig.choices,
        "core": ("transformer", "conformer"),
        "ffn": ("gru", "conv"),
    }

    def __post_init__(self) -> None:
        if sorted(self.axes) != ["freq", "time"]:
            raise InputError(f"axes must hold 'time' and 'freq' once each, got {self.axes}")
        super().__post_init__()

    @classmethod
    def small(cls) -> Self:
        """What the bundled weights use: quick to train and to run on a laptop's CPU."""
        return cls(
            channels=32, blocks=2, heads=2, ffn="conv", norm="layer", freq_stride=8, decoder_depth=2, phase="rotation"
        )

    @classmethod
    def conformer(cls) -> Self:
        """The short paper's model."""
        return cls(core="conformer", heads=8)

    @classmethod
    def released(cls) -> Self:
        """The layout of the authors' released weights."""
        return cls(axes=("freq", "time"))


class MPSENet(SpectrumEnhancer):
    """Magnitude mask and phase from one encoder, a stack of time-frequency blocks, and two parallel decoders.

    Shape:
        - magnitude (compressed), phase in; the same out: ``(batch, n_fft // 2 + 1, frames)``

    >>> model = MPSENet(MPSENet.Config.small())
    >>> model.enhance(torch.randn(1, 8000)).shape
    torch.Size([1, 8000])
    """

    config: MPSENetConfig
    slug: ClassVar[str] = "mp-senet"
    Config: ClassVar[type[MPSENetConfig]] = MPSENetConfig

    def make_block(self) -> TimeFrequencyBlock:
        """Both axes in turn."""
        return TimeFrequencyBlock(self.config)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: MPSENetConfig | None = None) -> Self:
        """Build from the authors' names: a generator's state dict, or their file ``{"generator": state_dict}``.

        Without a config the sizes are read off the tensors and the rest is ``Config.released()``.
        """
        state = state_dict.get("generator", state_dict)
        if not isinstance(state, Mapping) or "dense_encoder.dense_conv_1.0.weight" not in state:
            if isinstance(state, Mapping) and "encoder.lift.0.weight" in state:  # harken's own names
                return build(lambda: cls(config or MPSENetConfig.small()), state)
            raise CheckpointError("not an MP-SENet generator: 'dense_encoder.dense_conv_1.0.weight' is missing")
        try:
            config = config or _released_config(state)
            own = {_own_name(name): tensor for name, tensor in state.items()}
            own["mask_decoder.slope"] = own["mask_decoder.slope"].flatten()
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of an MP-SENet generator: {error}") from None
        return build(lambda: cls(config), own)


class TimeFrequencyBlock(nn.Module):
    """One sequence block along each axis, each added to its input: ``(batch, frames, bands, channels)`` to the same."""

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.axes, self.legacy = c.axes, c.legacy
        self.stages = nn.ModuleList(_stage(c) for _ in c.axes)

    def forward(self, x: Tensor) -> Tensor:
        for axis, stage in zip(self.axes, self.stages, strict=True):
            rows = to_rows(x, axis, self.legacy)
            x = x + from_rows(stage(rows), axis, self.legacy, x.shape)
        return x


def _stage(c: MPSENetConfig) -> nn.Module:
    if c.core == "conformer":
        return ConformerBlock(c.channels, create_attention(c.attention, dim=c.channels, heads=c.heads))
    return TransformerBlock(c)


def to_rows(x: Tensor, axis: str, legacy: bool = False) -> Tensor:
    """The sequences along one axis, ``(rows, length, channels)``; ``legacy`` strings the batch's items together."""
    if legacy:
        return x.permute(1, 0, 2, 3).flatten(1, 2) if axis == "freq" else x.permute(2, 0, 1, 3).flatten(1, 2)
    return x.flatten(0, 1) if axis == "freq" else x.transpose(1, 2).flatten(0, 1)


def from_rows(rows: Tensor, axis: str, legacy: bool, shape: torch.Size) -> Tensor:
    """The inverse of :func:`to_rows`."""
    batch, frames, bands, channels = shape
    if legacy:
        if axis == "freq":
            return rows.view(frames, batch, bands, channels).permute(1, 0, 2, 3)
        return rows.view(bands, batch, frames, channels).permute(1, 2, 0, 3)
    if axis == "freq":
        return rows.view(batch, frames, bands, channels)
    return rows.view(batch, bands, frames, channels).transpose(1, 2)


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, ``x + ffn(norm(x))``, norm: on ``(rows, length, channels)``."""

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(c.channels)
        self.attention = create_attention(c.attention, dim=c.channels, heads=c.heads)
        self.norm2 = nn.LayerNorm(c.channels)
        self.ffn = RecurrentFFN(c.channels) if c.ffn == "gru" else ConvolutionalFFN(c.channels)
        self.norm3 = nn.LayerNorm(c.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        if isinstance(self.ffn, RecurrentFFN) and only_computes(self.ffn, x):
            self.ffn.add_to(x, self.norm2(x))
        else:
            x = x + self.ffn(self.norm2(x))
        return self.norm3(x)


class RecurrentFFN(nn.Module):
    """Bidirectional GRU to twice the channels each way, leaky ReLU, linear back."""

    def __init__(self, channels: int):
        super().__init__()
        self.gru = nn.GRU(channels, 2 * channels, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(F.leaky_relu(self.gru(x)[0]))

    def add_to(self, out: Tensor, x: Tensor) -> None:
        """Add the layer's output to ``out`` in place; for inference, where it is quicker than ``out + layer(x)``."""
        add_bidirectional_gru(out, x, self.gru, self.linear)


class ConvolutionalFFN(nn.Module):
    """Convolution over three neighbours to twice the channels, GELU, linear back; a matmul, so quick on any machine."""

    def __init__(self, channels: int):
        super().__init__()
        self.up = nn.Linear(3 * channels, 2 * channels)
        self.down = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, (0, 0, 1, 1))
        neighbours = torch.cat((padded[:, :-2], x, padded[:, 2:]), -1)
        return self.down(F.gelu(self.up(neighbours)))


_AUTHORS_NAMES = (
    ("dense_encoder.dense_conv_1.", "encoder.lift."),
    ("dense_encoder.dense_conv_2.", "encoder.down."),
    ("dense_encoder.dense_block.", "encoder.dense."),
    ("TSTransformer.", "blocks."),
    ("time_transformer.", "stages.0."),
    ("freq_transformer.", "stages.1."),
    ("attention.in_proj_", "attention.in_proj."),
    ("mask_decoder.mask_conv.0.conv.", "mask_decoder.up.conv."),
    ("mask_decoder.mask_conv.1.", "mask_decoder.up.norm_act.0."),
    ("mask_decoder.mask_conv.2.", "mask_decoder.up.norm_act.1."),
    ("mask_decoder.mask_conv.3.", "mask_decoder.out."),
    ("mask_decoder.lsigmoid.slope", "mask_decoder.slope"),
    ("phase_decoder.phase_conv.0.conv.", "phase_decoder.up.conv."),
    ("phase_decoder.phase_conv.1.", "phase_decoder.up.norm_act.0."),
    ("phase_decoder.phase_conv.2.", "phase_decoder.up.norm_act.1."),
    ("phase_decoder.phase_conv_r.", "phase_decoder.real."),
    ("phase_decoder.phase_conv_i.", "phase_decoder.imaginary."),
)


def _own_name(name: str) -> str:
    """Our name of an authors' parameter."""
    for theirs, ours in _AUTHORS_NAMES:
        name = name.replace(theirs, ours)
    parts = name.split(".")
    if (
        "dense_block" in parts
    ):  # (encoder.dense|mask_decoder|phase_decoder).dense_block.<layer>.<1 conv, 2 norm, 3 prelu>.*
        at = parts.index("dense_block")
        at = at + 1 if parts[at + 1 : at + 2] == ["dense_block"] else at
        head = parts[:1]
        return ".".join((*head, "dense.layers", parts[at + 1], str(int(parts[at + 2]) - 1), *parts[at + 3 :]))
    return name


def _released_config(state: Mapping[str, Any]) -> MPSENetConfig:
    """The configuration of an authors' generator, read off its tensors."""
    blocks = {int(name.split(".")[1]) for name in state if name.startswith("TSTransformer.")}
    n_fft = 2 * (len(state["mask_decoder.lsigmoid.slope"]) - 1)
    channels = len(state["dense_encoder.dense_conv_1.0.bias"])
    return MPSENetConfig(
        channels=channels,
        blocks=len(blocks),
        n_fft=n_fft,
        win_length=n_fft,
        hop_length=n_fft // 4,
        axes=("freq", "time"),
    )
