"""From a spectrum to features and back: the encoder, mask decoder and phase decoder that enhancers share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.layers.dense_block import DenseBlock, NormAct, NormalisedConv
from harken.layers.inference import only_computes
from harken.models._base import Enhancer
from harken.signal.spectrum import Spectrum, pad_to_frames


@dataclass(frozen=True)
class CodecConfig:
    """Sizes and choices that enhancers of this family share.

    Attributes:
        channels, blocks, heads: width, number of time-frequency blocks, attention heads.
        sample_rate, n_fft, hop_length, win_length, compression: the spectrum.
        beta: upper bound of the magnitude mask (in the compressed domain).
        norm: ``"instance"`` (the papers': statistics over the whole chunk) or ``"layer"`` (over channels, per bin).
        freq_stride: bins merged into one band by the encoder: 2, 4 or 8.
        encoder_depth, decoder_depth: layers of the dense blocks.
        phase: ``"absolute"``: the wrapped phase is read and predicted as it is; ``"rotation"``: the spectrum is read
            as real and imaginary part and the decoder turns the noisy phase, so that an untrained model keeps it;
            ``"noisy"``: magnitude only, the noisy phase stays.
        codec: ``"subpixel"``: convolutions over the past, bands upsampled as channels (MP-SENet's); ``"transposed"``:
            convolutions both ways in time, transposed ones back to the bins (SEMamba's; a stride of 2 only).
        offsets: tiny offsets in the analysis of the input, which keep gradients finite in silence.
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
    norm: Literal["instance", "layer"] = "instance"
    freq_stride: int = 2
    encoder_depth: int = 4
    decoder_depth: int = 4
    phase: Literal["absolute", "rotation", "noisy"] = "absolute"
    codec: Literal["subpixel", "transposed"] = "subpixel"
    offsets: bool = True

    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "norm": ("instance", "layer"),
        "freq_stride": (2, 4, 8),
        "phase": ("absolute", "rotation", "noisy"),
        "codec": ("subpixel", "transposed"),
    }

    def __post_init__(self) -> None:
        for name, allowed in self.choices.items():
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
        if self.codec == "transposed" and (self.freq_stride != 2 or self.n_fft % 4):
            raise InputError("codec='transposed' needs freq_stride=2 and n_fft a multiple of 4")


class SpectrumEnhancer(Enhancer):
    """Magnitude mask and phase from one encoder, a stack of time-frequency blocks, and two parallel decoders.

    A subclass says what a block is: ``(batch, frames, bands, channels)`` to the same.
    """

    config: CodecConfig

    def __init__(self, config: CodecConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate = c.sample_rate
        self.spectrum = Spectrum(c.n_fft, c.hop_length, c.win_length, c.compression, offsets=c.offsets)
        self.encoder = Encoder(c)
        self.blocks = nn.ModuleList(self.make_block() for _ in range(c.blocks))
        self.mask_decoder = MaskDecoder(c)
        self.phase_decoder = None if c.phase == "noisy" else PhaseDecoder(c)

    @abstractmethod
    def make_block(self) -> nn.Module:
        """One of the stack."""

    def take_codec(self, other: SpectrumEnhancer) -> Self:
        """Begin with another enhancer's encoder and decoders, whatever lies between them; returns this model.

        Raises:
            CheckpointError: they are of other sizes.
        """
        parts = ("encoder", "mask_decoder", "phase_decoder")
        own, others = ({name: getattr(model, name) for name in parts} for model in (self, other))
        try:
            for name in parts:
                if own[name] is not None or others[name] is not None:
                    own[name].load_state_dict(others[name].state_dict())
        except (RuntimeError, AttributeError):
            raise CheckpointError(
                f"the encoder and decoders of {type(other).__name__} are of other sizes: choose the same --preset"
            ) from None
        return self

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


class Encoder(nn.Module):
    """Spectrum to features: lift to ``channels``, dense block, one band for every ``freq_stride`` bins.

    A stride above 2 comes first, so that the dense block runs on the bands alone.
    """

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.polar = c.phase == "absolute"
        features = 2 if self.polar else 3
        lift = nn.Conv2d(features, c.channels, 1)
        if c.freq_stride > 2:
            stride = c.freq_stride
            lift = nn.Conv2d(features, c.channels, (1, 2 * stride - 1), (1, stride), (0, stride - 1))
        self.lift = NormalisedConv(lift, c.norm)
        self.dense = _dense(c, c.encoder_depth)
        margin = 1 if c.codec == "subpixel" else 0
        down = nn.Conv2d(c.channels, c.channels, (1, 3), (1, 2 if c.freq_stride == 2 else 1), (0, margin))
        self.down = NormalisedConv(down, c.norm)

    def forward(self, magnitude: Tensor, phase: Tensor) -> Tensor:
        parts = (magnitude, phase) if self.polar else (magnitude, magnitude * phase.cos(), magnitude * phase.sin())
        x = torch.stack(parts, 1)
        if not self.polar or only_computes(self, x):
            x = x.contiguous(memory_format=torch.channels_last)
        return self.down(self.dense(self.lift(x)))


def _dense(c: CodecConfig, depth: int) -> DenseBlock:
    return DenseBlock(c.channels, c.norm, depth, look_ahead=c.codec == "transposed")


def _upsample(c: CodecConfig, *, normalised: bool) -> Upsample | Transposed:
    return Upsample(c) if c.codec == "subpixel" else Transposed(c, normalised)


class Upsample(nn.Module):
    """Sub-pixel upsampling in frequency: a convolution makes the bins in between as channels, which take their place.

    For a stride above 2 the full-rate bins keep ``channels // 4`` channels, so that the last layers stay cheap.
    """

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.stride = c.freq_stride
        self.out_channels = c.channels if c.freq_stride == 2 else max(1, c.channels // 4)
        self.conv = nn.Conv2d(c.channels, self.out_channels * self.stride, (1, 3), padding=(0, 1))
        self.norm_act = NormAct(self.out_channels, c.norm)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).unflatten(1, (self.stride, self.out_channels))  # (batch, stride, channels, frames, bands)
        return self.norm_act(x.permute(0, 2, 3, 4, 1).flatten(3))


class Transposed(nn.Module):
    """A transposed convolution from the bands back to the bins, 100 to 201; normalised for phases only."""

    def __init__(self, c: CodecConfig, normalised: bool):
        super().__init__()
        self.out_channels = c.channels
        self.conv = nn.ConvTranspose2d(c.channels, c.channels, (1, 3), (1, 2))
        self.norm_act = NormAct(c.channels, c.norm) if normalised else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm_act(self.conv(x))


class OneMapNorm(nn.InstanceNorm2d):
    """Instance norm of ``(batch, frames, bins)``, a map without channels."""

    def __init__(self) -> None:
        super().__init__(1, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.unsqueeze(1)).squeeze(1)


class Rescale(nn.Module):
    """``weight x + bias``, one number each."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight + self.bias


class ToBins(nn.Conv2d):
    """One value a bin: ``(batch, channels, frames, bands)`` to ``(batch, frames, bins)``, ``bins = n_fft // 2 + 1``.

    The kernel takes off the bands that upsampling made too many: 202 (or 208 for a stride of 8) to 201.
    """

    def __init__(self, channels: int, c: CodecConfig):
        bins = c.n_fft // 2 + 1
        made = ((bins - 1) // c.freq_stride + 1) * c.freq_stride if c.codec == "subpixel" else bins
        super().__init__(channels, 1, (1, made - bins + 1))

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

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.beta = c.beta
        self.dense = _dense(c, c.decoder_depth)
        self.up = _upsample(c, normalised=False)
        self.out: nn.Module = ToBins(self.up.out_channels, c)
        if c.codec == "transposed":
            self.out = nn.Sequential(ToBins(c.channels, c), OneMapNorm(), nn.PReLU(), Rescale())
        self.slope = nn.Parameter(torch.ones(c.n_fft // 2 + 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.beta * torch.sigmoid(self.slope * self.out(self.up(self.dense(x))))


class PhaseDecoder(nn.Module):
    """Features to a phase ``atan2(i, r)`` of two predicted maps, or to a rotation of the noisy phase."""

    def __init__(self, c: CodecConfig):
        super().__init__()
        self.rotates = c.phase == "rotation"
        self.dense = _dense(c, c.decoder_depth)
        self.up = _upsample(c, normalised=True)
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
