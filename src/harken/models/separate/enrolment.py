"""Who is it? An embedding of a talker from a noisy binaural clip: TF-GridNet over a whole recording (arXiv 2405.06289).

The blocks are TF-GridNet's (arXiv 2211.12433): along frequency, along time, and attention over all frames.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build

_EPS = 1e-5


@dataclass(frozen=True)
class EnrolmentConfig:
    """Sizes of :class:`EnrolmentNet`; the defaults are the paper's.

    Attributes:
        embedding_dim: numbers that say who it is.
        n_fft, hop_length: the spectrum, in samples.
        channels, blocks, hidden, heads: width, depth, LSTM units per direction, attention heads.
        query_size: numbers of a query over all frequencies, about.
        unfold: neighbours along frequency (and along time) that an LSTM sees at once.
        ears: channels of the clip.
        sample_rate: in Hz.
    """

    embedding_dim: int = 256
    n_fft: int = 128
    hop_length: int = 64
    channels: int = 64
    blocks: int = 3
    hidden: int = 64
    heads: int = 4
    query_size: int = 512
    unfold: int = 4
    ears: int = 2
    sample_rate: int = 16000

    def __post_init__(self) -> None:
        sizes = (self.embedding_dim, self.hop_length, self.channels, self.hidden, self.heads, self.query_size)
        if min(*sizes, self.ears, self.unfold, self.sample_rate) < 1 or max(sizes) > 65536:
            raise InputError("every size must be from 1 to 65536")
        if not 1 <= self.blocks <= 64 or not self.hop_length <= self.n_fft <= 65536 or self.n_fft % 2:
            raise InputError("expected 1 to 64 blocks, an even n_fft, and hop_length of at most n_fft")
        if self.channels % self.heads:
            raise InputError(f"channels={self.channels} must be a multiple of heads={self.heads}")

    @property
    def frequencies(self) -> int:
        """Bins of a frame."""
        return self.n_fft // 2 + 1

    @classmethod
    def paper(cls) -> Self:
        """The paper's size."""
        return cls()

    @classmethod
    def small(cls) -> Self:
        """A quarter of the width, two blocks, twice the hop."""
        return cls(n_fft=256, hop_length=128, channels=16, blocks=2, hidden=16, query_size=256)


class EnrolmentNet(Model):
    """Frames of both ears through TF-GridNet blocks, each frame to an embedding, and their mean.

    Loudness is taken out first: the clip is divided by its deviation over ears and samples.

    Shape:
        - clip: ``(batch, ears, samples)`` at ``sample_rate``; out: ``(batch, embedding_dim)``, not normalised

    >>> EnrolmentNet(EnrolmentConfig.small()).embed(torch.randn(1, 2, 4000)).shape
    torch.Size([1, 256])
    """

    config: EnrolmentConfig
    slug: ClassVar[str] = "look-once-enrolment"
    Config: ClassVar[type[EnrolmentConfig]] = EnrolmentConfig
    window: Tensor

    def __init__(self, config: EnrolmentConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate, self.ears = c.sample_rate, c.ears
        self.register_buffer("window", torch.hann_window(c.n_fft), persistent=False)
        self.lift = nn.Conv2d(2 * c.ears, c.channels, 3, padding=1)
        self.norm = nn.GroupNorm(1, c.channels, eps=_EPS)
        self.blocks = nn.ModuleList(WholeGridBlock(c) for _ in range(c.blocks))
        self.out = nn.Linear(c.channels * c.frequencies, c.embedding_dim)
        self.out_norm = nn.LayerNorm(c.embedding_dim)

    def embed(self, clip: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch embedding"]:
        """The same as calling the module."""
        return self(clip)

    def forward(self, clip: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch embedding"]:
        """Embeddings of clips.

        Raises:
            InputError: another number of ears, or fewer samples than one window.
        """
        c = self.config
        if clip.shape[1] != c.ears or clip.shape[-1] <= c.n_fft // 2:
            raise InputError(f"expected {c.ears} ears and more than {c.n_fft // 2} samples, got {tuple(clip.shape)}")
        level = clip.std((1, 2), keepdim=True).clamp_min(1e-8)
        bins = torch.stft(
            (clip / level).flatten(0, 1), c.n_fft, c.hop_length, window=self.window, center=True, return_complex=True
        ).unflatten(0, (-1, c.ears))
        x = torch.cat((bins.real, bins.imag), 1).mT  # (batch, 2 ears, frames, frequencies)
        x = self.norm(self.lift(x)).permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x)
        # (batch, frames, frequencies, channels): the projection counts channels first
        frames = self.out(x.transpose(2, 3).flatten(2))
        return self.out_norm(frames).mean(1)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: EnrolmentConfig | None = None) -> Self:
        """Build from the authors' parameter names, with or without a prefix.

        Without a config the sizes are read off the tensors; a hop is taken for half a window.
        """
        state = state_dict.get("state_dict", state_dict)
        if not isinstance(state, Mapping):
            raise CheckpointError("not a state dictionary of an enrolment network")
        if "lift.weight" in state and "out_norm.weight" in state:  # harken's own names
            return build(lambda: cls(config or EnrolmentConfig.small()), state)
        marker = next((name for name in state if str(name).endswith("embed_proj.0.weight")), None)
        if marker is None:
            raise CheckpointError("not an enrolment network of LookOnceToHear: 'embed_proj.0.weight' is missing")
        prefix = marker.removesuffix("embed_proj.0.weight")
        theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        try:
            sizes = config or _sizes(theirs)
            own = _own_state(theirs, sizes)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the parameters of an enrolment network: {error}") from None
        return build(lambda: cls(sizes), own)


class WholeGridBlock(nn.Module):
    """TF-GridNet's block on ``(batch, frames, frequencies, channels)`` of a whole clip; each part adds to its input."""

    def __init__(self, c: EnrolmentConfig):
        super().__init__()
        self.along_frequency = UnfoldedLSTM(c)
        self.along_time = UnfoldedLSTM(c)
        self.attention = WholeAttention(c)

    def forward(self, x: Tensor) -> Tensor:
        """The block."""
        short = [max(0, self.along_time.unfold - size) for size in x.shape[1:3]]
        padded = F.pad(x, (0, 0, 0, short[1], 0, short[0]))
        padded = padded + self.along_frequency(padded)
        padded = padded + self.along_time(padded.transpose(1, 2)).transpose(1, 2)
        y = padded[:, : x.shape[1], : x.shape[2]]
        return y + self.attention(y)


class UnfoldedLSTM(nn.Module):
    """Layer norm, a bidirectional LSTM over ``unfold`` neighbours at a time, and a transposed convolution back."""

    def __init__(self, c: EnrolmentConfig):
        super().__init__()
        self.unfold = c.unfold
        self.norm = nn.LayerNorm(c.channels, eps=_EPS)
        self.lstm = nn.LSTM(c.channels * c.unfold, c.hidden, batch_first=True, bidirectional=True)
        self.fold = nn.ConvTranspose1d(2 * c.hidden, c.channels, c.unfold)

    def forward(self, x: Float[Tensor, "batch lines length channels"]) -> Float[Tensor, "batch lines length channels"]:
        """Along the third axis."""
        batch, lines, _, _ = x.shape
        rows = self.norm(x).flatten(0, 1).unfold(1, self.unfold, 1).flatten(2)  # channel by channel, its neighbours
        made, _ = self.lstm(rows)
        return self.fold(made.mT).mT.unflatten(0, (batch, lines))


class WholeAttention(nn.Module):
    """Attention over all frames; all frequencies of a frame are one token."""

    def __init__(self, c: EnrolmentConfig):
        super().__init__()
        size = math.ceil(c.query_size / c.frequencies)
        self.query = NormedHeads(c.channels, c.heads, size, c.frequencies)
        self.key = NormedHeads(c.channels, c.heads, size, c.frequencies)
        self.value = NormedHeads(c.channels, c.heads, c.channels // c.heads, c.frequencies)
        self.out = NormedHeads(c.channels, 1, c.channels, c.frequencies)

    def forward(self, x: Float[Tensor, "batch frames frequencies channels"]) -> Tensor:
        """What attention adds to ``x``."""
        query, key, value = (part(x) for part in (self.query, self.key, self.value))
        query, key = query.flatten(3), key.flatten(3)
        shares = (query @ key.mT / math.sqrt(query.shape[-1])).softmax(-1)
        read = (shares @ value.flatten(3)).unflatten(-1, value.shape[3:])  # (batch, heads, frames, frequencies, size)
        return self.out(read.permute(0, 2, 3, 1, 4).flatten(3))[:, 0]


class NormedHeads(nn.Module):
    """Linear, PReLU and a layer norm over the channels and frequencies of a frame, each head with its own.

    Shape:
        - in: ``(batch, frames, frequencies, channels)``; out: ``(batch, heads, frames, frequencies, size)``
    """

    def __init__(self, channels: int, heads: int, size: int, frequencies: int):
        super().__init__()
        self.heads, self.size = heads, size
        self.linear = nn.Linear(channels, heads * size)
        self.slope = nn.Parameter(torch.full((heads,), 0.25))
        self.weight = nn.Parameter(torch.ones(heads, frequencies, size))
        self.bias = nn.Parameter(torch.zeros(heads, frequencies, size))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens, one a head and frame."""
        made = self.linear(x).unflatten(-1, (self.heads, self.size)).permute(0, 3, 1, 2, 4)
        made = torch.where(made >= 0, made, self.slope.view(-1, 1, 1, 1) * made)
        variance, mean = torch.var_mean(made, (-2, -1), correction=0, keepdim=True)
        made = (made - mean) / (variance + _EPS).sqrt()
        return made * self.weight[:, None] + self.bias[:, None]


def _sizes(state: Mapping[str, Tensor]) -> EnrolmentConfig:
    channels, inputs = state["conv.0.weight"].shape[:2]
    embedding_dim, wide = state["embed_proj.0.weight"].shape
    hidden, _, unfold = state["blocks.0.intra_linear.weight"].shape
    frequencies = wide // channels
    heads = len({name for name in state if re.match(r"blocks\.0\.attn_conv_Q_\d+\.0\.weight", name)})
    return EnrolmentConfig(
        embedding_dim=embedding_dim,
        n_fft=2 * (frequencies - 1),
        hop_length=frequencies - 1,
        channels=channels,
        blocks=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        hidden=hidden // 2,
        heads=heads,
        query_size=state["blocks.0.attn_conv_Q_0.0.weight"].shape[0] * frequencies,
        unfold=unfold,
        ears=inputs // 2,
    )


_RENAMED = (
    (r"^conv\.0\.", "lift."),
    (r"^conv\.1\.", "norm."),
    (r"^embed_proj\.0\.", "out."),
    (r"^embed_proj\.1\.", "out_norm."),
    (r"\.intra_(norm|rnn|linear)\.", r".along_frequency.\1."),
    (r"\.inter_(norm|rnn|linear)\.", r".along_time.\1."),
    (r"\.rnn\.", ".lstm."),
    (r"\.linear\.", ".fold."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
)
_PARTS = {"query": "attn_conv_Q_{}", "key": "attn_conv_K_{}", "value": "attn_conv_V_{}", "out": "attn_concat_proj"}


def _own_state(state: Mapping[str, Tensor], c: EnrolmentConfig) -> dict[str, Tensor]:
    """The authors' tensors under our names: what they keep head by head is one tensor here."""
    own = {}
    for name, tensor in state.items():
        if ".attn_" in name:
            continue
        for theirs, ours in _RENAMED:
            name = re.sub(theirs, ours, name)
        own[name] = tensor.flatten() if ".norm." in name else tensor
    for block in range(c.blocks):
        for part, pattern in _PARTS.items():
            heads = 1 if part == "out" else c.heads
            names = [f"blocks.{block}.{pattern.format(head)}" for head in range(heads)]
            target = f"blocks.{block}.attention.{part}"
            own[f"{target}.linear.weight"] = torch.cat([state[f"{name}.0.weight"].flatten(1) for name in names])
            own[f"{target}.linear.bias"] = torch.cat([state[f"{name}.0.bias"] for name in names])
            own[f"{target}.slope"] = torch.cat([state[f"{name}.1.weight"] for name in names])
            own[f"{target}.weight"] = torch.stack([state[f"{name}.2.gamma"][0, :, 0].T for name in names])
            own[f"{target}.bias"] = torch.stack([state[f"{name}.2.beta"][0, :, 0].T for name in names])
    return own
