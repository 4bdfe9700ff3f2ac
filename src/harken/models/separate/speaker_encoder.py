"""The d-vector encoder: an LSTM over mel spectra whose last state says who speaks (arXiv 1710.10467)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import CheckpointError, InputError
from harken.models._base import Model, build
from harken.signal.mel import mel_filters

_SIDE = 3.0  # natural logarithm of what the ears' difference counts at first
_LEVEL = 10 ** (-24 / 20)  # RMS at which every clip is heard: the mels are linear in power


@dataclass(frozen=True)
class SpeakerEncoderConfig:
    """Sizes of :class:`SpeakerEncoder`; the defaults are those of the published weights.

    Attributes:
        embedding_dim, hidden, layers: of the embedding and the LSTM.
        bands, n_fft, hop_length: of the mel spectra.
        partial, step: frames that are embedded at once, and from one such part to the next.
        sample_rate: in Hz.
        faces_front: of two ears, hear mostly what reaches both alike: who is straight ahead. How much the difference
            of the ears counts is learnt for each frequency. A clip of one channel stays as it is.
    """

    embedding_dim: int = 256
    hidden: int = 256
    layers: int = 3
    bands: int = 40
    n_fft: int = 400
    hop_length: int = 160
    partial: int = 160
    step: int = 77
    sample_rate: int = 16000
    faces_front: bool = False

    def __post_init__(self) -> None:
        sizes = (self.embedding_dim, self.hidden, self.bands, self.n_fft, self.hop_length, self.partial, self.step)
        if min(sizes) < 1 or max(sizes) > 65536 or not 1 <= self.layers <= 16 or self.sample_rate < 1000:
            raise InputError("every size must be from 1 to 65536, layers 1 to 16, sample_rate 1000 or more")

    @classmethod
    def small(cls) -> Self:
        """A quarter of the width in one layer, to try things with: the published weights do not fit."""
        return cls(hidden=64, layers=1)


class SpeakerEncoder(Model):
    """An embedding of unit length for a clip: close for clips of one talker, far for those of two.

    Both ears are averaged, which favours who stands in front, and brought to one level (the published code raises soft
    clips only, and cuts out silence). Parts of 1.6 s that overlap by half are embedded one by one (the last state of
    the LSTM, through a linear layer and a ReLU, at unit length), and averaged.

    Shape:
        - clip: ``(batch, ears, samples)`` at ``sample_rate``; out: ``(batch, embedding_dim)``

    >>> SpeakerEncoder(SpeakerEncoderConfig(hidden=8, layers=1)).embed(torch.randn(1, 2, 4000)).shape
    torch.Size([1, 256])
    """

    config: SpeakerEncoderConfig
    slug: ClassVar[str] = "speaker-encoder"
    Config: ClassVar[type[SpeakerEncoderConfig]] = SpeakerEncoderConfig
    window: Tensor
    filters: Tensor

    def __init__(self, config: SpeakerEncoderConfig | None = None):
        super().__init__(config)
        c = self.config
        self.sample_rate = c.sample_rate
        self.register_buffer("window", torch.hann_window(c.n_fft, device="cpu"), persistent=False)
        with torch.device("cpu"):
            self.register_buffer("filters", mel_filters(c.bands, c.n_fft, c.sample_rate), persistent=False)
        self.lstm = nn.LSTM(c.bands, c.hidden, c.layers, batch_first=True)
        self.linear = nn.Linear(c.hidden, c.embedding_dim)
        if c.faces_front:
            self.side_weight = nn.Parameter(torch.full((c.n_fft // 2 + 1,), _SIDE))

    def embed(self, clip: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch embedding"]:
        """The same as calling the module."""
        return self(clip)

    def forward(self, clip: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch embedding"]:
        """Embeddings of clips of any length."""
        c = self.config
        mels = self.mel(clip)
        short = c.partial - mels.shape[1]
        if short > 0:
            mels = F.pad(mels, (0, 0, 0, short))
        parts = mels.unfold(1, c.partial, c.step).mT  # (batch, parts, frames, bands)
        _, (hidden, _) = self.lstm(parts.flatten(0, 1))
        embeddings = F.normalize(self.linear(hidden[-1]).relu(), dim=-1)
        return F.normalize(embeddings.unflatten(0, parts.shape[:2]).mean(1), dim=-1)

    def mel(self, clip: Float[Tensor, "batch ears samples"]) -> Float[Tensor, "batch frames bands"]:
        """Power of the mel bands, frame by frame; no logarithm."""
        c = self.config
        middle = clip.mean(1, keepdim=True)
        both = torch.cat((middle, clip[:, :1] - middle), 1) if c.faces_front and clip.shape[1] == 2 else middle
        bins = torch.stft(
            both.flatten(0, 1), c.n_fft, c.hop_length, window=self.window, pad_mode="constant", return_complex=True
        ).unflatten(0, both.shape[:2])
        power = bins.real.square() + bins.imag.square()
        heard = power[:, 0]
        if both.shape[1] == 2:
            heard = heard.square() / (heard + self.side_weight.exp()[:, None] * power[:, 1] + 1e-12)
        # by Parseval's theorem the mean power of the samples, after what came from the side is gone
        level = heard.mean((1, 2), keepdim=True) / self.window.square().sum()
        return (self.filters @ (heard * (_LEVEL**2 / level.clamp_min(1e-12)))).mT

    def facing_front(self) -> Self:
        """A copy that hears mostly who is straight ahead, of clips with two ears; to be trained further."""
        made = type(self)(replace(self.config, faces_front=True))
        made.load_state_dict({**made.state_dict(), **self.state_dict()})
        return made

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: SpeakerEncoderConfig | None = None) -> Self:
        """Build from Resemblyzer's ``pretrained.pt``, or its ``model_state`` alone."""
        if "side_weight" in state_dict:  # harken's own, of an encoder that faces the front
            return build(lambda: cls(config or SpeakerEncoderConfig(faces_front=True)), state_dict)
        state = state_dict.get("model_state", state_dict)
        if not isinstance(state, Mapping) or "lstm.weight_ih_l0" not in state or "linear.weight" not in state:
            raise CheckpointError("not a d-vector encoder: 'lstm.weight_ih_l0' or 'linear.weight' is missing")
        own = {name: tensor for name, tensor in state.items() if not str(name).startswith("similarity_")}
        try:
            layers = len({name for name in own if name.startswith("lstm.weight_ih_l")})
            embedding_dim, hidden = own["linear.weight"].shape
            sizes = config or SpeakerEncoderConfig(embedding_dim, hidden, layers, own["lstm.weight_ih_l0"].shape[1])
        except (AttributeError, TypeError, ValueError) as error:
            raise CheckpointError(f"not the parameters of a d-vector encoder: {error}") from None
        return build(lambda: cls(sizes), own)
