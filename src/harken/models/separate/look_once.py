"""Look Once to Hear: keep one talker of a binaural mixture, 8 ms at a time, by an embedding (arXiv 2405.06289)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build
from harken.models.separate.filterbank import ShortFilterbank

_QUERY_SIZE = 512  # numbers of a query or key over all frequencies, about
_AT_ONCE = 128  # frames that ask together: each sees so many more, of which it may use ``memory``


@dataclass(frozen=True)
class LookOnceConfig:
    """Sizes of :class:`LookOnceToHear`; the defaults are the paper's.

    Attributes:
        embedding_dim: numbers that say who is wanted.
        hop_length, look_ahead: samples of a chunk, and samples after it that must have arrived: the latency is both.
        channels, blocks, hidden, heads: width, depth, LSTM units per direction, attention heads.
        memory: frames that attention sees, its own included.
        sample_rate: in Hz.
        synthesis: ``"dual"`` reconstructs exactly; ``"authors"`` is their filterbank, whose gain ripples by a third.
        masked_start: frames before the first are left out of attention; the authors attend to zeros there.
        ears: channels in and out.
        stride: bins of the spectrum that share one place inside the network; 1 in the paper.
        output: what the network makes: the ``"spectrum"`` itself, as in the paper, or a complex ``"mask"`` for each
            ear, which learns sooner.
    """

    embedding_dim: int = 256
    hop_length: int = 128
    look_ahead: int = 64
    channels: int = 64
    blocks: int = 3
    hidden: int = 64
    heads: int = 4
    memory: int = 50
    sample_rate: int = 16000
    synthesis: Literal["dual", "authors"] = "dual"
    masked_start: bool = True
    ears: int = 2
    stride: int = 1
    output: Literal["spectrum", "mask"] = "spectrum"

    def __post_init__(self) -> None:
        sizes = (self.embedding_dim, self.hop_length, self.channels, self.hidden, self.heads, self.memory, self.ears)
        if min(sizes) < 1 or max(sizes) > 65536 or self.blocks not in range(2, 65):
            raise InputError("sizes must be at least 1, and blocks at least 2: the embedding enters before the second")
        if not 1 <= self.look_ahead <= self.hop_length or self.window_length % 2:
            raise InputError(
                f"look_ahead must be 1 to hop_length, and their sum even, got {self.look_ahead} and {self.hop_length}"
            )
        if not 1 <= self.stride <= 3 or (self.window_length // 2) % self.stride:
            raise InputError(
                f"stride={self.stride} must be 1 to 3, and divide half the window, {self.window_length // 2}"
            )
        if self.channels % self.heads or self.sample_rate < 1:
            raise InputError(f"channels={self.channels} must be a multiple of heads={self.heads}")

    @property
    def window_length(self) -> int:
        """Samples that a frame sees."""
        return self.hop_length + self.look_ahead

    @property
    def frequencies(self) -> int:
        """Bins of a frame."""
        return self.window_length // 2 + 1

    @property
    def places(self) -> int:
        """Frequencies inside the network: a bin each, or ``stride`` bins each."""
        return self.window_length // 2 // self.stride + 1

    @property
    def query_size(self) -> int:
        """Numbers of a query or key per head and frequency."""
        return math.ceil(_QUERY_SIZE / self.places)

    @classmethod
    def paper(cls) -> Self:
        """The paper's size, 2.0 million parameters, with an exact filterbank and no attention to what never was."""
        return cls()

    @classmethod
    def small(cls) -> Self:
        """A quarter of the width, half the frequencies, two blocks: learns on a CPU within the hour."""
        return cls(channels=16, blocks=2, hidden=24, heads=2, stride=2, output="mask")


class BlockState(NamedTuple):
    """What a block carries from frame to frame; the first axis is the batch.

    Shape:
        - hidden, cell: ``(batch, places, hidden)``
        - keys, values: ``(batch, heads, memory - 1, numbers)``, oldest first
    """

    hidden: Float[Tensor, "batch places hidden"]
    cell: Float[Tensor, "batch places hidden"]
    keys: Float[Tensor, "batch heads past key_numbers"]
    values: Float[Tensor, "batch heads past value_numbers"]


class LookOnceState(NamedTuple):
    """What the network carries from chunk to chunk: constant in size (5.2 MB for the paper's), never changed in place.

    Shape:
        - features: the last two frames of the input, ``(batch, 2 ears, 2, frequencies)``
        - latent: of what leaves the blocks, ``(batch, channels, 2, places)``
        - spectrum: the last frame of the output, ``(batch, ears, 2 frequencies)``
        - frames: how many there have been, ``(batch,)``
        - blocks: one :class:`BlockState` each
    """

    features: Float[Tensor, "batch inputs 2 frequencies"]
    latent: Float[Tensor, "batch channels 2 places"]
    spectrum: Float[Tensor, "batch ears rows"]
    frames: Int[Tensor, " batch"]
    blocks: tuple[BlockState, ...]

    def map(self, change: Any) -> LookOnceState:
        """The state with ``change`` applied to every tensor.

        >>> state = LookOnceToHear(LookOnceConfig.small()).initial_state(batch=2)
        >>> state.map(lambda tensor: tensor[:1]).frames.shape  # the first row alone
        torch.Size([1])
        """
        blocks = tuple(BlockState(*map(change, block)) for block in self.blocks)
        features, latent, spectrum, frames = map(change, self[:4])
        return LookOnceState(features, latent, spectrum, frames, blocks)

    def clone(self) -> LookOnceState:
        """A copy with memory of its own."""
        return self.map(torch.clone)


class LookOnceToHear(Model):
    """A causal network on short spectra: along frequency, along time, and attention to the last 0.4 s, block by block.

    The embedding of the wanted talker scales the features once, between the first and the second block. The output is
    a complex spectrum for each ear, not a mask, so that both cues of direction can stay as they were.

    Shape:
        - mixture: ``(batch, ears, samples)`` at ``sample_rate``
        - embedding: ``(batch, embedding_dim)``, or ``(batch, 1, embedding_dim)``
        - out: as the mixture

    >>> model = LookOnceToHear(LookOnceConfig.small())
    >>> model(torch.randn(1, 2, 1000), torch.randn(1, 256)).shape
    torch.Size([1, 2, 1000])
    """

    config: LookOnceConfig
    slug: ClassVar[str] = "look-once-to-hear"
    Config: ClassVar[type[LookOnceConfig]] = LookOnceConfig

    def __init__(self, config: LookOnceConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate = c.sample_rate
        self.filterbank = ShortFilterbank(c.hop_length, c.look_ahead, c.synthesis)
        self.lift = nn.Conv2d(2 * c.ears, c.channels, 3, stride=(1, c.stride), padding=(0, 1))
        self.of_talker = nn.Sequential(
            nn.Linear(c.embedding_dim, c.channels * c.places), nn.LayerNorm(c.channels * c.places)
        )
        self.blocks = nn.ModuleList(GridBlock(c) for _ in range(c.blocks))
        self.lower = nn.ConvTranspose2d(c.channels, 2 * c.ears, 3, stride=(1, c.stride), padding=(2, 1))
        with torch.no_grad():
            self.lower.weight.mul_(0.3)  # to begin about as loud as what is wanted

    @property
    def latency(self) -> int:
        """Samples from an input to the output that belongs to it: a chunk and the look-ahead."""
        return self.config.window_length

    def initial_state(self, batch: int = 1) -> LookOnceState:
        """The state before the first chunk: nothing was heard."""
        c, like = self.config, self.lift.weight
        latent = like.new_zeros(batch, c.channels, 2, c.places)
        return LookOnceState(
            like.new_zeros(batch, 2 * c.ears, 2, c.frequencies),
            latent,
            like.new_zeros(batch, c.ears, 2 * c.frequencies),
            torch.zeros(batch, dtype=torch.int64, device=like.device),
            tuple(block.initial_state(batch) for block in self.blocks),  # type: ignore[operator]
        )

    def talker_scale(self, embedding: Tensor) -> Float[Tensor, "batch channels 1 places"]:
        """What the features are multiplied by: who is wanted, as the network hears it; once for a stream."""
        if embedding.shape[-1] != self.config.embedding_dim:
            raise InputError(f"expected embeddings of {self.config.embedding_dim} numbers, got {embedding.shape[-1]}")
        scale = self.of_talker(embedding.reshape(-1, self.config.embedding_dim))
        return scale.view(-1, self.config.channels, 1, self.config.places)

    def forward(self, mixture: Float[Tensor, "batch ears samples"], embedding: Tensor) -> Tensor:
        """The wanted talker at both ears, as long as the mixture; equals what a stream makes of it."""
        c, samples = self.config, mixture.shape[-1]
        padded = F.pad(mixture, (0, -samples % c.hop_length + c.look_ahead))
        made, _ = self.step(padded, self.talker_scale(embedding), self.initial_state(len(mixture)))
        return made[..., :samples]

    def step(
        self, window: Float[Tensor, "batch ears seen"], scale: Tensor, state: LookOnceState
    ) -> tuple[Float[Tensor, "batch ears ready"], LookOnceState]:
        """Any number of whole chunks and the look-ahead behind them, through the network.

        Args:
            window: ``hop_length * chunks + look_ahead`` samples; the last ``look_ahead`` come again in the next call.
            scale: of :meth:`talker_scale`.
            state: of :meth:`initial_state`, or of the call before; left as it is.

        Returns:
            ``hop_length * chunks`` samples, and the new state.

        Raises:
            InputError: no whole number of chunks, or channels other than ``ears``.
        """
        c = self.config
        chunks, rest = divmod(window.shape[-1] - c.look_ahead, c.hop_length)
        if window.ndim != 3 or window.shape[1] != c.ears or rest or chunks < 1:
            raise InputError(
                f"expected (batch, {c.ears}, {c.hop_length} n + {c.look_ahead}) samples, got {tuple(window.shape)}"
            )
        rows = self.filterbank.analyse(window)  # (batch, ears, frames, rows)
        real, imaginary = rows.chunk(2, -1)
        features = torch.cat((state.features, torch.cat((real, imaginary), 1)), 2)
        x = self.lift(features).permute(0, 2, 3, 1)  # (batch, frames, places, channels)
        scale = scale.permute(0, 2, 3, 1)
        blocks = []
        for i, block in enumerate(self.blocks):
            x, carried = block(x * scale if i == 1 else x, state.blocks[i], state.frames)
            blocks.append(carried)
        latent = torch.cat((state.latent, x.permute(0, 3, 1, 2)), 2)
        made = self.lower(latent)  # (batch, 2 ears, frames, frequencies): real and imaginary part, ear by ear
        made = made.unflatten(1, (c.ears, 2))
        if c.output == "mask":
            a, b = made.unbind(2)
            made = torch.stack((a * real - b * imaginary, a * imaginary + b * real), 2)
        spectra = made.transpose(2, 3).flatten(3)
        out = self.filterbank.synthesise(spectra, state.spectrum)
        new = (features[:, :, -2:], latent[:, :, -2:], spectra[:, :, -1], state.frames + chunks)
        return out, LookOnceState(*new, tuple(blocks))

    def stream(self, embedding: Tensor | None = None, *, batch: int = 1, real_time: bool = True) -> Any:
        """The network at work on sound that is still arriving: ``push(chunk) -> ready``, ``flush()``, ``latency``.

        Args:
            embedding: of the wanted talker, ``(embedding_dim,)`` or ``(batch, embedding_dim)``.
            batch: how many sounds side by side.
            real_time: quickest chunk by chunk; False is quickest when many chunks are pushed at once.

        Raises:
            InputError: no embedding.
        """
        from harken.models.separate.look_once_stream import LookOnceStream

        if embedding is None:
            raise InputError("whom to keep? pass the embedding of a talker: stream(embedding)")
        return LookOnceStream(self, embedding, batch=batch, real_time=real_time)

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: LookOnceConfig | None = None) -> Self:
        """Build from the authors' parameter names, with or without a prefix, or from a checkpoint of Lightning's.

        Without a config the sizes are read off the tensors; a chunk is taken for twice the look-ahead, the memory for
        50 frames, the filterbank and the attention at the start for the authors'.
        """
        state = state_dict.get("state_dict", state_dict)
        if not isinstance(state, Mapping):
            raise CheckpointError("not a state dictionary of LookOnceToHear")
        if "lift.weight" in state:  # harken's own names
            return build(lambda: cls(config or LookOnceConfig.small()), state)
        marker = next((name for name in state if str(name).endswith("embed_to_feats_proj.0.weight")), None)
        if marker is None:
            raise CheckpointError("not a LookOnceToHear extractor: 'embed_to_feats_proj.0.weight' is missing")
        prefix = marker.removesuffix("embed_to_feats_proj.0.weight")
        theirs = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        try:
            sizes = config or _sizes(theirs)
            own = {_own_name(name): tensor for name, tensor in theirs.items() if ".filterbank." not in name}
        except (AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(f"not the parameters of a LookOnceToHear extractor: {error}") from None
        return build(lambda: cls(sizes), own)


class GridBlock(nn.Module):
    """One block: a bidirectional LSTM along frequency, an LSTM along time, attention to the frames before.

    Each part adds to what came in. ``x`` is ``(batch, frames, frequencies, channels)``.
    """

    def __init__(self, c: LookOnceConfig):
        super().__init__()
        self.hidden = c.hidden
        self.frequency_norm = nn.LayerNorm(c.channels)
        self.frequency_lstm = nn.LSTM(c.channels, c.hidden, batch_first=True, bidirectional=True)
        self.frequency_out = nn.Linear(2 * c.hidden, c.channels)
        self.time_norm = nn.LayerNorm(c.channels)
        self.time_lstm = nn.LSTM(c.channels, c.hidden, batch_first=True)
        self.time_out = nn.Linear(c.hidden, c.channels)
        self.attention = FrameAttention(c)

    def initial_state(self, batch: int) -> BlockState:
        """Of a stream that begins."""
        attention, like = self.attention, self.frequency_out.weight
        silent = like.new_zeros(batch, attention.frequencies, self.hidden)
        past = (batch, attention.heads, attention.memory - 1)
        keys = like.new_zeros(*past, attention.frequencies * attention.query_size)
        return BlockState(silent, silent, keys, like.new_zeros(*past, attention.frequencies * attention.value_size))

    def forward(self, x: Tensor, state: BlockState, frames: Int[Tensor, " batch"]) -> tuple[Tensor, BlockState]:
        """The block on any number of frames, and what it carries on; ``frames`` came before."""
        batch, _, frequencies, _ = x.shape
        along, _ = self.frequency_lstm(self.frequency_norm(x).flatten(0, 1))
        x = x + self.frequency_out(along).view_as(x)
        rows = self.time_norm(x).transpose(1, 2).flatten(0, 1)
        before = tuple(part.reshape(1, batch * frequencies, -1) for part in (state.hidden, state.cell))
        along, after = self.time_lstm(rows, before)
        x = x + self.time_out(along).unflatten(0, (batch, frequencies)).transpose(1, 2)
        hidden, cell = (part.view(batch, frequencies, -1) for part in after)
        attended, keys, values = self.attention(x, state.keys, state.values, frames)
        return x + attended, BlockState(hidden, cell, keys, values)


class FrameAttention(nn.Module):
    """Attention of each frame to itself and the ``memory - 1`` before; all frequencies of a frame are one token."""

    def __init__(self, c: LookOnceConfig):
        super().__init__()
        self.heads, self.memory, self.masked_start = c.heads, c.memory, c.masked_start
        self.frequencies, self.query_size, self.value_size = c.places, c.query_size, c.channels // c.heads
        self.query = TokenProjection(c.channels, c.heads, self.query_size, c.places)
        self.key = TokenProjection(c.channels, c.heads, self.query_size, c.places)
        self.value = TokenProjection(c.channels, c.heads, self.value_size, c.places)
        self.out = TokenProjection(c.channels, 1, c.channels, c.places)

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, frames: Int[Tensor, " batch"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What attention adds to ``x``, and the keys and values of the last ``memory - 1`` frames."""
        past, count = self.memory - 1, x.shape[1]
        query = self.query(x) / math.sqrt(self.frequencies * self.query_size)
        keys, values = torch.cat((keys, self.key(x)), 2), torch.cat((values, self.value(x)), 2)
        found = []
        # a few frames at once: cost and memory grow with the length, not with its square
        for start in range(0, count, _AT_ONCE):
            asked = query[:, :, start : start + _AT_ONCE]
            seen = slice(start, start + asked.shape[2] + past)
            logits = asked @ keys[:, :, seen].mT
            allowed = self._allowed(asked.shape[2], frames + start).to(logits.device)
            found.append(logits.masked_fill(~allowed, -torch.inf).softmax(-1) @ values[:, :, seen])
        read = torch.cat(found, 2).unflatten(-1, (self.frequencies, self.value_size))
        merged = read.permute(0, 2, 3, 1, 4).flatten(3)  # heads side by side
        attended = self.out(merged)[:, 0].unflatten(-1, (self.frequencies, -1))
        kept = keys.shape[2] - past
        return attended, keys[:, :, kept:], values[:, :, kept:]

    def _allowed(self, count: int, before: Int[Tensor, " batch"]) -> Tensor:
        """Which of ``count + memory - 1`` frames each of ``count`` may see, ``before`` frames into the stream."""
        row = torch.arange(count, device=before.device)[:, None]
        column = torch.arange(count + self.memory - 1, device=before.device)
        window = (column >= row) & (column < row + self.memory)
        if not self.masked_start:
            return window[None, None]
        there = column >= (self.memory - 1 - before)[:, None]
        return window[None, None] & there[:, None, None]


class TokenProjection(nn.Module):
    """Linear, PReLU, and a layer norm over all frequencies of a frame, head by head.

    Shape:
        - in: ``(batch, frames, frequencies, channels)``; out: ``(batch, heads, frames, frequencies * size)``
    """

    def __init__(self, channels: int, heads: int, size: int, frequencies: int):
        super().__init__()
        self.heads, self.size = heads, size
        self.linear = nn.Linear(channels, heads * size)
        self.activation = nn.PReLU()
        self.norm = nn.LayerNorm(frequencies * size)

    def forward(self, x: Float[Tensor, "batch frames frequencies channels"]) -> Tensor:
        """Tokens."""
        made = self.activation(self.linear(x)).unflatten(-1, (self.heads, self.size))
        return self.norm(made.permute(0, 3, 1, 2, 4).flatten(3))


def _sizes(state: Mapping[str, Tensor]) -> LookOnceConfig:
    """The sizes of the authors' tensors, as far as they say."""
    channels, inputs = state["conv.0.weight"].shape[:2]
    wide, embedding_dim = state["embed_to_feats_proj.0.weight"].shape
    frequencies = wide // channels
    window = 2 * (frequencies - 1)
    hop = 2 * window // 3
    query_numbers = state["blocks.0.attn_conv_K.0.weight"].shape[0]
    return LookOnceConfig(
        embedding_dim=embedding_dim,
        hop_length=hop,
        look_ahead=window - hop,
        channels=channels,
        blocks=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        hidden=state["blocks.0.inter_linear.weight"].shape[1],
        heads=query_numbers * frequencies // state["blocks.0.attn_conv_K.3.norm.weight"].shape[0],
        synthesis="authors",
        masked_start=False,
        ears=inputs // 2,
    )


_AUTHORS_NAMES = (
    (r"^conv\.0\.", "lift."),
    (r"^deconv\.", "lower."),
    (r"^embed_to_feats_proj\.", "of_talker."),
    (r"\.intra_norm\.norm\.", ".frequency_norm."),
    (r"\.intra_rnn\.", ".frequency_lstm."),
    (r"\.intra_linear\.", ".frequency_out."),
    (r"\.inter_norm\.norm\.", ".time_norm."),
    (r"\.inter_rnn\.", ".time_lstm."),
    (r"\.inter_linear\.", ".time_out."),
    (r"\.attn_conv_Q\.", ".attention.query."),
    (r"\.attn_conv_K\.", ".attention.key."),
    (r"\.attn_conv_V\.", ".attention.value."),
    (r"\.attn_concat_proj\.", ".attention.out."),
    (r"(attention\.\w+)\.0\.", r"\1.linear."),
    (r"(attention\.\w+)\.1\.", r"\1.activation."),
    (r"(attention\.\w+)\.3\.norm\.", r"\1.norm."),
)


def _own_name(name: str) -> str:
    for theirs, ours in _AUTHORS_NAMES:
        name = re.sub(theirs, ours, name)
    return name
