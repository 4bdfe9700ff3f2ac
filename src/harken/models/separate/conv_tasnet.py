"""Conv-TasNet for music: mask a learned filterbank by dilated convolutions (arXiv 1911.13254, after 1809.07454)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import build
from harken.models.separate._separator import Separator, authors_state, check_sources

_EPS = 1e-8


@dataclass(frozen=True)
class ConvTasNetConfig:
    """Sizes of Conv-TasNet; the defaults are the paper's.

    Attributes:
        sources: what comes out, in order.
        sample_rate: of mixture and sources, Hz.
        audio_channels: of the mixture and of each source.
        filters, kernel_size: of the encoder (N, L), which moves on by half a kernel.
        bottleneck, hidden: channels between and inside blocks (B, H).
        block_kernel: of their convolutions (P).
        blocks, repeats: with dilations 1, 2, 4... so many blocks, so often (X, R).
        norm: over channels and time (``"global"``), over channels (``"channel"``), over the batch, or none.
        causal: no look-ahead in the blocks; asks for a norm that has none either.
        mask: ``"relu"``, or ``"softmax"`` over the sources.
        segment_length: samples separated at once, where nothing else is said.
    """

    sources: tuple[str, ...] = ("drums", "bass", "other", "vocals")
    sample_rate: int = 44100
    audio_channels: int = 2
    filters: int = 256
    kernel_size: int = 20
    bottleneck: int = 256
    hidden: int = 512
    block_kernel: int = 3
    blocks: int = 10
    repeats: int = 4
    norm: Literal["global", "channel", "batch", "none"] = "global"
    causal: bool = False
    mask: Literal["relu", "softmax"] = "relu"
    segment_length: int = 352_800

    def __post_init__(self) -> None:
        check_sources(self.sources, self.sample_rate, self.audio_channels, self.segment_length)
        sizes = (self.filters, self.bottleneck, self.hidden)
        if min(sizes) < 1 or max(sizes) > 8192 or not 1 <= self.blocks <= 14 or not 1 <= self.repeats <= 16:
            raise InputError(f"expected 1 to 8192 channels, 1 to 14 blocks and 1 to 16 repeats, got {self}")
        if not 2 <= self.kernel_size <= 4096 or self.kernel_size % 2 or not 1 <= self.block_kernel <= 15:
            raise InputError(f"expected an even kernel of 2 to 4096, and blocks of 1 to 15, got {self.kernel_size}")
        if self.block_kernel % 2 == 0 and not self.causal:
            raise InputError(f"an even kernel of blocks ({self.block_kernel}) has no middle: choose an odd one")

    @classmethod
    def small(
        cls, sources: tuple[str, ...] = ("speech", "noise"), sample_rate: int = 16000, audio_channels: int = 1
    ) -> Self:
        """For a CPU: half a million parameters."""
        return cls(
            sources=sources,
            sample_rate=sample_rate,
            audio_channels=audio_channels,
            filters=128,
            kernel_size=2 * round(sample_rate / 1000),
            bottleneck=96,
            hidden=192,
            blocks=6,
            repeats=2,
            segment_length=10 * sample_rate,
        )


class ConvTasNet(Separator):
    """Waveform to waveforms by masks on a learned filterbank.

    ``w = relu(encoder(mix))``; ``masks = relu(1x1(blocks(1x1(norm(w)))))``; each source is the overlap-add of
    ``basis (mask w)``, frames half a kernel apart. A block is ``x + 1x1(norm(prelu(depthwise(norm(prelu(1x1 x))))))``.

    Shape: ``(batch, channels, samples)`` to ``(batch, sources, channels, samples)``; what lies beyond the last whole
    frame, less than half a kernel, is zero.

    >>> model = ConvTasNet(ConvTasNetConfig.small())
    >>> model(torch.zeros(1, 1, 4000)).shape
    torch.Size([1, 2, 1, 4000])
    """

    slug = "conv-tasnet"
    Config = ConvTasNetConfig

    def __init__(self, config: ConvTasNetConfig | None = None):
        super().__init__(config)
        c: ConvTasNetConfig = self.config
        hop = c.kernel_size // 2
        self.encoder = nn.Conv1d(c.audio_channels, c.filters, c.kernel_size, hop, bias=False)
        self.norm = ChannelNorm(c.filters)
        self.enter = nn.Conv1d(c.filters, c.bottleneck, 1, bias=False)
        self.blocks = nn.ModuleList(Block(c, 2**x) for _ in range(c.repeats) for x in range(c.blocks))
        self.leave = nn.Conv1d(c.bottleneck, len(c.sources) * c.filters, 1, bias=False)
        self.basis = nn.Linear(c.filters, c.audio_channels * c.kernel_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1 and parameter.device.type != "meta":
                nn.init.xavier_normal_(parameter)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: ConvTasNetConfig | None = None) -> Self:
        """The published checkpoints (v2), bare or packaged; sizes are read from the weights where no config is given.

        Raises:
            CheckpointError: parameters are missing, left over, or of another size.
        """
        theirs = authors_state(dict(state_dict), "Conv-TasNet")
        sizes = config or _sizes(theirs)
        return build(lambda: cls(sizes), {_renamed(name, sizes): value for name, value in theirs.items()})

    def valid_length(self, length: int) -> int:
        """The length itself, but at least one frame."""
        return max(length, self.config.kernel_size)

    @property
    def reach(self) -> int:
        return self.config.kernel_size

    def encode(self, mix: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch filters frames"]:
        """The filterbank's responses, never negative."""
        return F.relu(self.encoder(mix))

    def masks(self, w: Float[Tensor, "batch filters frames"]) -> Float[Tensor, "batch sources filters frames"]:
        """What each source takes of each response."""
        x = pointwise(self.enter, self.norm(w))
        for block in self.blocks:
            x = block(x)
        scores = pointwise(self.leave, x).unflatten(1, (len(self.config.sources), self.config.filters))
        return F.relu(scores) if self.config.mask == "relu" else scores.softmax(1)

    def forward(self, mix: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch sources channels made"]:
        c = self.config
        w = self.encode(mix)
        frames = self.basis((w[:, None] * self.masks(w)).mT)
        return _overlap_add(frames.unflatten(-1, (c.audio_channels, c.kernel_size)), mix.shape[-1])


class Block(nn.Module):
    """``x + 1x1(norm(prelu(depthwise(norm(prelu(1x1 x))))))``, over ``(batch, channels, frames)``."""

    def __init__(self, c: ConvTasNetConfig, dilation: int):
        super().__init__()
        self.widen = nn.Conv1d(c.bottleneck, c.hidden, 1, bias=False)
        self.prelu1, self.norm1 = nn.PReLU(), _make_norm(c)
        self.depthwise = nn.Conv1d(c.hidden, c.hidden, c.block_kernel, dilation=dilation, groups=c.hidden, bias=False)
        self.prelu2, self.norm2 = nn.PReLU(), _make_norm(c)
        self.narrow = nn.Conv1d(c.hidden, c.bottleneck, 1, bias=False)
        reach = (c.block_kernel - 1) * dilation
        self.padding = (reach, 0) if c.causal else (reach // 2, reach // 2)

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        y = self.norm1(self.prelu1(pointwise(self.widen, x)))
        y = self.norm2(self.prelu2(self.depthwise(F.pad(y, self.padding))))
        return x + pointwise(self.narrow, y)


class ChannelNorm(nn.Module):
    """Mean 0 and variance 1 over the channels of each frame, then a gain and a bias for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        return F.layer_norm(x.mT, x.shape[1:2], self.gamma.flatten(), self.beta.flatten(), _EPS).mT


class GlobalNorm(ChannelNorm):
    """Mean 0 and variance 1 over channels and time together: one group of all channels."""

    def forward(self, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch channels frames"]:
        return F.group_norm(x, 1, self.gamma.flatten(), self.beta.flatten(), _EPS)


def pointwise(conv: nn.Conv1d, x: Float[Tensor, "batch channels frames"]) -> Float[Tensor, "batch out frames"]:
    """A convolution of kernel 1 as the matrix product that it is: PyTorch's own takes longer on a CPU."""
    return conv.weight[..., 0] @ x


def _make_norm(c: ConvTasNetConfig) -> nn.Module:
    kinds = {"global": GlobalNorm, "channel": ChannelNorm, "batch": nn.BatchNorm1d}
    return nn.Identity() if c.norm == "none" else kinds[c.norm](c.hidden)


def _overlap_add(
    frames: Float[Tensor, "batch sources frames channels kernel"], samples: int
) -> Float[Tensor, "batch sources channels samples"]:
    """Frames half a kernel apart, added up: the first halves are one signal, the second halves another, a hop later."""
    hop = frames.shape[-1] // 2
    first, second = (half.transpose(2, 3).flatten(-2) for half in frames.split(hop, -1))
    made = F.pad(first, (0, hop)) + F.pad(second, (hop, 0))
    return F.pad(made, (0, samples - made.shape[-1]))


_NAMES = {
    "encoder.conv1d_U.weight": "encoder.weight",
    "decoder.basis_signals.weight": "basis.weight",
    "separator.network.0.gamma": "norm.gamma",
    "separator.network.0.beta": "norm.beta",
    "separator.network.1.weight": "enter.weight",
    "separator.network.3.weight": "leave.weight",
}
_BLOCK = re.compile(r"separator\.network\.2\.(\d+)\.(\d+)\.net\.(?:3\.net\.(\d)|(\d))\.(\w+)")
_OUTER = ("widen", "prelu1", "norm1")


def _renamed(name: str, c: ConvTasNetConfig) -> str:
    """Our name of one of the authors' parameters; what is none of them stays, and is refused for it."""
    found = _BLOCK.fullmatch(name)
    if name in _NAMES or not found:
        return _NAMES.get(name, name)
    repeat, block, inner, outer, what = found.groups()
    parts = (
        ("depthwise", "chomp", "prelu2", "norm2", "narrow") if c.causal else ("depthwise", "prelu2", "norm2", "narrow")
    )
    index, names = (int(outer), _OUTER) if outer else (int(inner), parts)
    return f"blocks.{int(repeat) * c.blocks + int(block)}.{names[index]}.{what}" if index < len(names) else name


def _sizes(state: Mapping[str, Tensor]) -> ConvTasNetConfig:
    """What the shapes of the authors' parameters say; sources beyond four get numbers for names."""
    try:
        filters, audio_channels, kernel = state["encoder.conv1d_U.weight"].shape
        where = [found for name in state if (found := _BLOCK.fullmatch(name))]
        bottleneck = state["separator.network.1.weight"].shape[0]
        leaving = state["separator.network.3.weight"].shape[0] // filters
        first = state["separator.network.2.0.0.net.3.net.0.weight"]
        names = ConvTasNetConfig().sources if leaving == 4 else tuple(f"source{i}" for i in range(leaving))
        return ConvTasNetConfig(
            sources=names,
            audio_channels=audio_channels,
            filters=filters,
            kernel_size=kernel,
            bottleneck=bottleneck,
            hidden=first.shape[0],
            block_kernel=first.shape[2],
            blocks=1 + max(int(found[2]) for found in where),
            repeats=1 + max(int(found[1]) for found in where),
        )
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"these weights are not those of Conv-TasNet: {str(error)[:100]}") from None
