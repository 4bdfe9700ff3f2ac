"""MP-SENet: enhance speech by estimating magnitude and phase in parallel (arXiv 2308.08926)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention import create_attention
from harken.errors import CheckpointError, InputError
from harken.layers.conformer import ConformerBlock
from harken.layers.dense_block import DenseBlock, NormAct, NormalisedConv
from harken.layers.gru import add_bidirectional_gru
from harken.layers.inference import only_computes
from harken.models._base import Enhancer, build
from harken.signal.spectrum import Spectrum, pad_to_frames


@dataclass(frozen=True)
class MPSENetConfig:
    """Sizes and choices of :class:`MPSENet`; the defaults are the paper's.

    Attributes:
        channels, blocks, heads: width, number of time-frequency blocks, attention heads.
        sample_rate, n_fft, hop_length, win_length, compression: the spectrum.
        beta: upper bound of the magnitude mask (in the compressed domain).
        core: what mixes a sequence: ``"transformer"``, or the ``"conformer"`` of the short paper (arXiv 2305.13686).
        attention: any bidirectional mechanism of :func:`harken.list_attention`.
        ffn: feed-forward part of a transformer: ``"gru"`` (the paper's) or ``"conv"`` (far quicker on a CPU).
        axes: the order in which a block visits the axes. The released code reads ``(batch, sequence)`` tensors as
            ``(sequence, batch)``; for one utterance at a time that is this order swapped, ``("freq", "time")``.
        legacy: also mix the items of a batch as the released code does; only to reproduce it.
        norm: ``"instance"`` (the paper's: statistics over the whole chunk) or ``"layer"`` (over channels, per bin).
        freq_stride: bins merged into one band by the encoder: 2, 4 or 8.
        encoder_depth, decoder_depth: layers of the dense blocks.
        phase: ``"absolute"``: the wrapped phase is read and predicted as it is; ``"rotation"``: the spectrum is read
            as real and imaginary part and the decoder turns the noisy phase, so that an untrained model keeps it;
            ``"noisy"``: magnitude only, the noisy phase stays (the paper's ablation).
    """

    channels: int = 64
    blocks: int = 4
    heads: int = 4
    sample_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 100
    win_length: int = 400
    compression: float = 0.3
    beta: float = 2.0
    core: Literal["transformer", "conformer"] = "transformer"
    attention: str = "softmax"
    ffn: Literal["gru", "conv"] = "gru"
    axes: tuple[str, str] = ("time", "freq")
    legacy: bool = False
    norm: Literal["instance", "layer"] = "instance"
    freq_stride: int = 2
    encoder_depth: int = 4
    decoder_depth: int = 4
    phase: Literal["absolute", "rotation", "noisy"] = "absolute"

    def __post_init__(self) -> None:
        if sorted(self.axes) != ["freq", "time"]:
            raise InputError(f"axes must hold 'time' and 'freq' once each, got {self.axes}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} must be one of {', '.join(map(str, allowed))}, got {getattr(self, name)!r}")
        if min(self.channels, self.blocks, self.heads, self.sample_rate) < 1 or max(self.channels, self.blocks) > 4096:
            raise InputError(
                "channels, blocks, heads and sample_rate must be positive (at most 4096 channels and blocks)"
            )
        if not (1 <= self.encoder_depth <= 16 and 1 <= self.decoder_depth <= 16):
            raise InputError("encoder_depth and decoder_depth must be 1 to 16")
        if not 0 < self.hop_length <= self.win_length <= self.n_fft <= 65536 or self.n_fft % self.freq_stride:
            raise InputError("expected 0 < hop_length <= win_length <= n_fft, and n_fft a multiple of freq_stride")

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


_CHOICES: dict[str, tuple[Any, ...]] = {
    "core": ("transformer", "conformer"),
    "ffn": ("gru", "conv"),
    "norm": ("instance", "layer"),
    "freq_stride": (2, 4, 8),
    "phase": ("absolute", "rotation", "noisy"),
}


class MPSENet(Enhancer):
    """Magnitude mask and phase from one encoder, a stack of time-frequency blocks, and two parallel decoders.

    Shape:
        - magnitude (compressed), phase in; the same out: ``(batch, n_fft // 2 + 1, frames)``

    >>> model = MPSENet(MPSENet.Config.small())
    >>> model.enhance(torch.randn(1, 8000)).shape
    torch.Size([1, 8000])
    """

    slug: ClassVar[str] = "mp-senet"
    Config: ClassVar[type[MPSENetConfig]] = MPSENetConfig

    def __init__(self, config: MPSENetConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate = c.sample_rate
        self.spectrum = Spectrum(c.n_fft, c.hop_length, c.win_length, c.compression)
        self.encoder = Encoder(c)
        self.blocks = nn.ModuleList(TimeFrequencyBlock(c) for _ in range(c.blocks))
        self.mask_decoder = MaskDecoder(c)
        self.phase_decoder = None if c.phase == "noisy" else PhaseDecoder(c)

    def forward(
        self, magnitude: Float[Tensor, "batch bins frames"], phase: Float[Tensor, "batch bins frames"]
    ) -> tuple[Float[Tensor, "batch bins frames"], Float[Tensor, "batch bins frames"]]:
        """Enhanced compressed magnitude and phase of noisy ones."""
        noisy_magnitude, noisy_phase = magnitude.transpose(1, 2), phase.transpose(1, 2)
        x = self.encoder(noisy_magnitude, noisy_phase).permute(0, 2, 3, 1)  # (batch, frames, bands, channels)
        for block in self.blocks:
            x = block(x)
        x = x.permute(0, 3, 1, 2)
        enhanced_magnitude = noisy_magnitude * self.mask_decoder(x)
        if self.phase_decoder is None:
            return enhanced_magnitude.transpose(1, 2), phase
        return enhanced_magnitude.transpose(1, 2), self.phase_decoder(x, noisy_phase).transpose(1, 2)

    def enhance(
        self, waveform: Float[Tensor, "batch samples"], *, level: Float[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch samples"]:
        """Enhance waveforms of one length; scaling the input scales the output, silence stays silence.

        Zero padding inside a row would change that row (attention sees it): batch rows of equal length.
        """
        samples = waveform.shape[-1]
        if level is None:
            level = waveform.square().mean(-1).sqrt()
        scale = level.clamp(min=1e-8)[:, None]
        magnitude, phase = self(*self.spectrum(pad_to_frames(waveform / scale, self.config.n_fft)))
        enhanced = self.spectrum.inverse(magnitude, phase, max(samples, self.config.n_fft))[:, :samples]
        return enhanced * scale * (level > 0)[:, None]

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


class Encoder(nn.Module):
    """Spectrum to features: lift to ``channels``, dense block, one band for every ``freq_stride`` bins.

    A stride above 2 comes first, so that the dense block runs on the bands alone.
    """

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.polar = c.phase == "absolute"
        features = 2 if self.polar else 3
        lift = nn.Conv2d(features, c.channels, 1)
        if c.freq_stride > 2:
            stride = c.freq_stride
            lift = nn.Conv2d(features, c.channels, (1, 2 * stride - 1), (1, stride), (0, stride - 1))
        self.lift = NormalisedConv(lift, c.norm)
        self.dense = DenseBlock(c.channels, c.norm, c.encoder_depth)
        down = nn.Conv2d(c.channels, c.channels, (1, 3), (1, 2 if c.freq_stride == 2 else 1), (0, 1))
        self.down = NormalisedConv(down, c.norm)

    def forward(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        parts = (magnitude, phase) if self.polar else (magnitude, magnitude * phase.cos(), magnitude * phase.sin())
        x = torch.stack(parts, 1)
        if not self.polar or only_computes(self, x):
            x = x.contiguous(memory_format=torch.channels_last)
        return self.down(self.dense(self.lift(x)))


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


class Upsample(nn.Module):
    """Sub-pixel upsampling in frequency: a convolution makes the bins in between as channels, which take their place.

    For a stride above 2 the full-rate bins keep ``channels // 4`` channels, so that the last layers stay cheap.
    """

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.stride = c.freq_stride
        self.out_channels = c.channels if c.freq_stride == 2 else max(1, c.channels // 4)
        self.conv = nn.Conv2d(c.channels, self.out_channels * self.stride, (1, 3), padding=(0, 1))
        self.norm_act = NormAct(self.out_channels, c.norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).unflatten(1, (self.stride, self.out_channels))  # (batch, stride, channels, frames, bands)
        return self.norm_act(x.permute(0, 2, 3, 4, 1).flatten(3))


class ToBins(nn.Conv2d):
    """One value a bin: ``(batch, channels, frames, bands)`` to ``(batch, frames, bins)``, ``bins = n_fft // 2 + 1``.

    The kernel takes off the bands that upsampling made too many: 202 (or 208 for a stride of 8) to 201.
    """

    def __init__(self, channels: int, c: MPSENetConfig):
        bins = c.n_fft // 2 + 1
        bands = (bins - 1) // c.freq_stride + 1
        super().__init__(channels, 1, (1, bands * c.freq_stride - bins + 1))

    def forward(self, x: Tensor) -> Tensor:
        if not only_computes(self, x):
            return super().forward(x).squeeze(1)
        # PyTorch copies a map that is channels last for a convolution to one channel; a product of each tap reads it
        taps = x.permute(0, 2, 3, 1) @ self.weight[0, :, 0]
        count = taps.shape[3]
        bins = taps.shape[2] - count + 1
        return torch.stack([taps[:, :, i : i + bins, i] for i in range(count)]).sum(0) + self.get_parameter("bias")


class MaskDecoder(nn.Module):
    """Features to a magnitude mask in (0, beta): ``beta * sigmoid(slope_f * x)``, ``(batch, frames, bins)``."""

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.beta = c.beta
        self.dense = DenseBlock(c.channels, c.norm, c.decoder_depth)
        self.up = Upsample(c)
        self.out = ToBins(self.up.out_channels, c)
        self.slope = nn.Parameter(torch.ones(c.n_fft // 2 + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.beta * torch.sigmoid(self.slope * self.out(self.up(self.dense(x))))


class PhaseDecoder(nn.Module):
    """Features to a phase ``atan2(i, r)`` of two predicted maps, or to a rotation of the noisy phase."""

    def __init__(self, c: MPSENetConfig):
        super().__init__()
        self.rotates = c.phase == "rotation"
        self.dense = DenseBlock(c.channels, c.norm, c.decoder_depth)
        self.up = Upsample(c)
        self.real = ToBins(self.up.out_channels, c)
        self.imaginary = ToBins(self.up.out_channels, c)
        if self.rotates:  # start at no rotation
            assert self.real.bias is not None
            nn.init.ones_(self.real.bias)

    def forward(self, x: Tensor, noisy_phase: Tensor) -> Tensor:
        x = self.up(self.dense(x))
        real, imaginary = self.real(x), self.imaginary(x)
        if not self.rotates:
            return torch.atan2(imaginary, real)
        cos, sin = noisy_phase.cos(), noisy_phase.sin()
        return torch.atan2(real * sin + imaginary * cos, real * cos - imaginary * sin)


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
