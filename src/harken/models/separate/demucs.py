"""Demucs: take music apart on the waveform by a U-Net with a recurrent bottleneck (arXiv 1911.13254, version 2)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import build
from harken.models.separate._products import through
from harken.models.separate._separator import Separator, authors_state, center_trim, check_sources
from harken.signal.sinc_resampling import SincResampler


@dataclass(frozen=True)
class DemucsConfig:
    """Sizes of Demucs; the defaults are the paper's.

    Attributes:
        sources: what comes out, in order.
        sample_rate: of mixture and sources, Hz.
        audio_channels: of the mixture and of each source.
        channels: of the first layer; each deeper one has ``growth`` times as many.
        depth: layers of the encoder, and of the decoder.
        kernel_size, stride: of its convolutions.
        lstm_layers: of the bidirectional bottleneck, 0 for none.
        context: kernel of the decoder's convolutions before they go up.
        rewrite: convolutions of kernel 1 (``context`` in the decoder) beside the strided ones.
        glu: those end in gated linear units, else in ReLU.
        resample: work at twice the rate.
        normalize: each input brought to mean 0 and deviation 1, and back.
        rescale: deviation towards which initial weights are scaled, 0 for PyTorch's own.
        segment_length: samples separated at once, where nothing else is said.
    """

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    sample_rate: int = 44100
    audio_channels: int = 2
    channels: int = 64
    depth: int = 6
    kernel_size: int = 8
    stride: int = 4
    growth: float = 2.0
    lstm_layers: int = 2
    context: int = 3
    rewrite: bool = True
    glu: bool = True
    resample: bool = True
    normalize: bool = False
    rescale: float = 0.1
    segment_length: int = 441_000

    def __post_init__(self) -> None:
        check_sources(self.sources, self.sample_rate, self.audio_channels, self.segment_length)
        if not 1 <= self.depth <= 10 or not 1 <= self.stride <= self.kernel_size <= 64 or self.stride > 16:
            raise InputError(f"expected 1 to 10 layers, a stride within a kernel of at most 64, got {self}")
        if not 1 <= self.channels <= 1024 or not 1 <= self.growth <= 4 or not 0 <= self.lstm_layers <= 8:
            raise InputError("expected 1 to 1024 channels that grow by 1 to 4, and at most 8 recurrent layers")
        if not 1 <= self.context <= 15 or self.context % 2 == 0 or self.rescale < 0:
            raise InputError(f"expected an odd context of 1 to 15 and a rescale of at least 0, got {self.context}")

    @classmethod
    def small(
        cls, sources: tuple[str, ...] = ("speech", "noise"), sample_rate: int = 16000, audio_channels: int = 1
    ) -> Self:
        """For a CPU, without the doubled rate: one and a half million parameters."""
        sizes = (24, 4, 2.0) if sample_rate <= 24000 else (32, 5, 1.5)
        channels, depth, growth = sizes
        return cls(
            sources=sources,
            sample_rate=sample_rate,
            audio_channels=audio_channels,
            channels=channels,
            depth=depth,
            growth=growth,
            lstm_layers=1,
            resample=False,
            segment_length=10 * sample_rate,
        )


class Demucs(Separator):
    """Waveform to waveforms by a U-Net of strided convolutions with a bidirectional LSTM at its bottom.

    Each encoder layer is a convolution (kernel 8, stride 4), ReLU, a convolution of kernel 1 and a gated linear unit;
    each decoder layer adds the encoder's output of its depth, looks at three frames through another gated convolution,
    and goes up by a transposed one. No convolution is padded, so that the output is shorter than the input:
    :meth:`valid_length` says which input covers a length. Inside, the signal has twice its rate.

    Shape: ``(batch, channels, samples)`` with ``samples`` a :meth:`valid_length`, to
    ``(batch, sources, channels, made)``, which are the samples in the middle.

    >>> model = Demucs(DemucsConfig.small())
    >>> model(torch.zeros(1, 1, model.valid_length(4000))).shape[-1] >= 4000
    True
    """

    slug = "demucs"
    Config = DemucsConfig

    def __init__(self, config: DemucsConfig | None = None):
        super().__init__(config)
        c: DemucsConfig = self.config
        width, entering = c.channels, c.audio_channels
        gated, gate = (2, lambda: nn.GLU(dim=1)) if c.glu else (1, nn.ReLU)
        self.encoder, decoder = nn.ModuleList(), []
        for index in range(c.depth):
            down: list[nn.Module] = [nn.Conv1d(entering, width, c.kernel_size, c.stride), nn.ReLU()]
            leaving = entering if index else len(c.sources) * c.audio_channels
            up: list[nn.Module] = [nn.ConvTranspose1d(width, leaving, c.kernel_size, c.stride)]
            if c.rewrite:
                down += [nn.Conv1d(width, gated * width, 1), gate()]
                up = [nn.Conv1d(width, gated * width, c.context), gate(), *up]
            self.encoder.append(nn.Sequential(*down))
            decoder.append(nn.Sequential(*up, nn.ReLU()) if index else nn.Sequential(*up))
            entering, width = width, int(c.growth * width)
        self.decoder = nn.ModuleList(reversed(decoder))
        self.lstm = BLSTM(entering, c.lstm_layers) if c.lstm_layers else None
        self.upsample = SincResampler(1, 2) if c.resample else None
        self.downsample = SincResampler(2, 1) if c.resample else None
        if c.rescale and next(self.parameters()).device.type != "meta":
            rescale_convolutions(self, c.rescale)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: DemucsConfig | None = None) -> Self:
        """The published checkpoints (v2), bare or packaged; sizes are read from the weights where no config is given.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        state = authors_state(dict(state_dict), "Demucs")
        return build(lambda: cls(config or _sizes(state)), state)

    def valid_length(self, length: int) -> int:
        """The length of input whose output covers ``length`` samples; larger than it, and not idempotent."""
        c = self.config
        return _valid_length(c, length)

    @property
    def reach(self) -> int:
        c = self.config
        # lengths repeat with the product of the strides: none in a period needs more than its last one from its start
        return -(-_valid_length(c, c.stride**c.depth) // 2)

    def forward(self, mix: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch sources channels made"]:
        c, x = self.config, mix
        if c.normalize:
            mono = mix.mean(1, keepdim=True)
            mean, deviation = mono.mean(-1, keepdim=True), mono.std(-1, keepdim=True)
            x = (x - mean) / (1e-5 + deviation)
        if self.upsample is not None:
            x = self.upsample(x)
        x, skips = x.mT.contiguous(), []  # channels last: see harken.models.separate._products
        for layer in self.encoder:
            x = through(layer, x)
            skips.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        for layer in self.decoder:
            x = through(layer, x + center_trim(skips.pop().mT, x.shape[1]).mT)
        x = x.mT
        if self.downsample is not None:
            x = self.downsample(x)
        if c.normalize:
            x = x * deviation + mean
        return x.unflatten(1, (len(c.sources), c.audio_channels))


class BLSTM(nn.Module):
    """A bidirectional LSTM and a linear layer back to the width, over ``(batch, frames, channels)``."""

    def __init__(self, channels: int, layers: int):
        super().__init__()
        self.lstm = nn.LSTM(channels, channels, layers, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Float[Tensor, "batch frames channels"]) -> Float[Tensor, "batch frames channels"]:
        return self.linear(self.lstm(x.transpose(0, 1))[0]).transpose(0, 1)


@torch.no_grad()
def rescale_convolutions(module: nn.Module, reference: float) -> None:
    """Divide weight and bias of each convolution by ``sqrt(deviation of its weight / reference)``.

    PyTorch's initial weights shrink a signal on its way through twelve layers: so they do half as much, on a log scale.
    """
    for part in module.modules():
        if isinstance(part, (nn.Conv1d, nn.ConvTranspose1d)):
            scale = (part.weight.std() / reference).sqrt()
            part.weight /= scale
            if part.bias is not None:
                part.bias /= scale


def _valid_length(c: DemucsConfig, length: int) -> int:
    length = 2 * length if c.resample else length
    for _ in range(c.depth):
        length = max(1, math.ceil((length - c.kernel_size) / c.stride) + 1) + c.context - 1
    for _ in range(c.depth):
        length = (length - 1) * c.stride + c.kernel_size
    return math.ceil(length / 2) if c.resample else length


def _sizes(state: Mapping[str, Tensor]) -> DemucsConfig:
    """What the shapes of the authors' parameters say; sources beyond four get numbers for names."""
    try:
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("encoder."))
        channels, audio_channels, kernel = state["encoder.0.0.weight"].shape
        leaving = state[f"decoder.{depth - 1}.2.weight"].shape[1] // audio_channels
        second = state["encoder.1.0.weight"].shape[0] if depth > 1 else 2 * channels
        recurrent = sum(name.startswith("lstm.lstm.weight_ih") for name in state) // 2
        context = state["decoder.0.0.weight"].shape[2]
    except (KeyError, ValueError, AttributeError, IndexError):
        raise CheckpointError(
            "these weights are not those of Demucs v2: expected encoder.0.0.weight and so on"
        ) from None
    default = DemucsConfig()
    names = default.sources if leaving == 4 else tuple(f"source{i}" for i in range(leaving))
    try:
        return replace(
            default,
            sources=names,
            audio_channels=audio_channels,
            channels=channels,
            depth=depth,
            kernel_size=kernel,
            growth=second / channels,
            lstm_layers=recurrent,
            context=context,
        )
    except InputError as error:
        raise CheckpointError(f"these weights are not those of Demucs v2: {error}") from None
