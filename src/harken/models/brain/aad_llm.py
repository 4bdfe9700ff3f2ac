"""AAD-LLM: answers about an auditory scene from the side of the talker a listener attends to (arXiv 2502.16794).

The authors published no code and no weights. The order of the tokens, the chain of thought and the training follow the
paper; the sizes are ours. The language model here is tiny and reads bytes: it learns the few kinds of question it is
trained on, and knows no language beyond them. A real audio language model takes its place through
:mod:`harken.models.brain.audio_language_model`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention import create_attention, take_turns
from harken.errors import CheckpointError, InputError
from harken.layers.positions import sinusoidal_positions
from harken.layers.transformer import TransformerBlock, make_norm
from harken.models._base import Model, build
from harken.models.brain.attention_net import AttentionNet
from harken.models.brain.speaker_clusters import SpeakerClusters
from harken.models.write.generation import generate

BEGIN, END = 256, 257  # of an answer
_VOCABULARY = 258
_THOUGHT = re.compile(r"^((?:[A-H]\d{1,3} )+)>([A-H]): (.*)$", re.DOTALL)


@dataclass(frozen=True)
class SceneLMConfig:
    """Sizes of :class:`SceneLM`.

    Attributes:
        dim, layers, heads: of the language model.
        attention: a causal mechanism, or several that take turns through the layers.
        intention: size of an intention vector: of the speaker embeddings whose centroids they are.
        bands: mel bands of the streams.
        stride: mel frames that become one audio token: a power of two.
        streams: talkers in a scene, at most 8.
        dropout: of all tokens.
    """

    dim: int = 128
    layers: int = 4
    heads: int = 4
    attention: tuple[str, ...] = ("softmax",)
    intention: int = 256
    bands: int = 40
    stride: int = 4
    streams: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.dim, self.layers, self.heads, self.intention, self.bands) < 1 or self.layers > 1000:
            raise InputError("dim, layers (at most 1000), heads, intention and bands must be positive")
        if self.stride not in (1, 2, 4, 8, 16, 32) or not 2 <= self.streams <= 8:
            raise InputError("stride must be a power of two up to 32, and streams 2 to 8")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is a probability below 1, got {self.dropout}")
        take_turns(self.attention, self.layers)

    @classmethod
    def small(cls) -> Self:
        """Trains in a minute or two on a laptop."""
        return cls(dim=64, layers=3, heads=4, bands=24)


class Answer(NamedTuple):
    """What was said, and why.

    Attributes:
        text: the answer alone.
        labels: the speaker cluster of each stream, as the model reads them; empty where it did not keep to the form.
        attended: the number of the stream it took for attended; None likewise.
        thought: all that was generated.
    """

    text: str
    labels: tuple[int, ...]
    attended: int | None
    thought: str

    @classmethod
    def parse(cls, thought: str) -> Self:
        """Read ``"A3 B5 >B: seven"``.

        >>> Answer.parse("A3 B5 >B: seven").attended
        1
        """
        found = _THOUGHT.match(thought)
        if found is None:
            return cls(thought, (), None, thought)
        labels = tuple(int(part[1:]) for part in found[1].split())
        attended = ord(found[2]) - ord("A")
        return cls(found[3], labels, attended if attended < len(labels) else None, thought)


def thought_of(labels: Sequence[int], attended: int, answer: str) -> str:
    """The target text: speaker labels of the streams, which one is attended, then the answer.

    >>> thought_of([3, 5], 1, "seven")
    'A3 B5 >B: seven'
    """
    named = " ".join(f"{chr(ord('A') + number)}{label}" for number, label in enumerate(labels))
    return f"{named} >{chr(ord('A') + attended)}: {answer}"


class IntentionProjector(nn.Module):
    """An intention vector as one token of the language model: ``W I``, nothing else."""

    def __init__(self, intention: int, dim: int):
        super().__init__()
        self.linear = nn.Linear(intention, dim, bias=False)

    def forward(self, intention: Float[Tensor, "batch intention"]) -> Float[Tensor, "batch dim"]:
        return self.linear(intention)


class IntentionDecoder(nn.Module):
    """Brain signals to an intention vector: the centroid of the speaker cluster that is decoded.

    Args:
        net: names the cluster.
        clusters: their centroids.
    """

    def __init__(self, net: AttentionNet, clusters: SpeakerClusters):
        super().__init__()
        if len(clusters) != net.config.clusters:
            raise InputError(
                f"the network names {net.config.clusters} clusters, but there are {len(clusters)} centroids"
            )
        self.net, self.clusters = net, clusters

    def forward(
        self,
        neural: Float[Tensor, "batch electrodes samples"],
        mask: Bool[Tensor, "batch samples"] | None = None,
        *,
        patient: int = 0,
        among: Int[Tensor, "batch streams"] | None = None,
    ) -> Float[Tensor, "batch intention"]:
        """Decode; ``among`` restricts the choice to the clusters of the talkers in the scene."""
        logits = self.net(neural, mask, patient=patient)
        if among is not None:
            allowed = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, among, True)
            logits = logits.masked_fill(~allowed, torch.finfo(logits.dtype).min)
        return self.clusters.intention(logits.argmax(-1))


class SceneEncoder(nn.Module):
    """Log-mel frames of one stream to tokens at a fraction of their rate, by strided convolutions."""

    def __init__(self, bands: int, dim: int, stride: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Conv1d(bands, dim, 5, padding=2), nn.GELU()]
        while stride > 1:
            layers += [nn.Conv1d(dim, dim, 4, stride=2, padding=1), nn.GELU()]
            stride //= 2
        self.layers = nn.Sequential(*layers)

    def forward(self, mel: Float[Tensor, "batch bands frames"]) -> Float[Tensor, "batch tokens dim"]:
        return self.layers(mel).mT


class SceneLM(Model):
    """A causal language model behind ``[question; stream A; stream B; intention]`` that thinks before it answers.

    The thought names the speaker cluster of each stream and which of them is attended; the answer follows. Without an
    intention its token is a learned one that says so. A decoder of the brain (:class:`IntentionDecoder`) is attached by
    :meth:`attach` and saved by itself.

    Shape:
        - scene: ``(batch, streams, bands, frames)``, log-mel, scaled to about unit variance
        - intention: ``(batch, intention)``

    >>> model = SceneLM(SceneLMConfig.small()).eval()
    >>> answer = model.generate("who?", torch.zeros(2, 24, 40), longest=5)
    >>> isinstance(answer.text, str)
    True
    """

    config: SceneLMConfig
    slug: ClassVar[str] = "aad-llm"
    Config: ClassVar[type[SceneLMConfig]] = SceneLMConfig

    def __init__(self, config: SceneLMConfig | None = None):
        super().__init__(config)
        c = self.config
        self.embedding = nn.Embedding(_VOCABULARY, c.dim)
        nn.init.normal_(self.embedding.weight, std=c.dim**-0.5)
        self.listen = SceneEncoder(c.bands, c.dim, c.stride)
        self.marks = nn.Parameter(torch.randn(c.streams, c.dim) * c.dim**-0.5)
        self.project = IntentionProjector(c.intention, c.dim)
        self.no_intention = nn.Parameter(torch.randn(c.dim) * c.dim**-0.5)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(c.dim, create_attention(mechanism, dim=c.dim, heads=c.heads, causal=True))
            for mechanism in take_turns(c.attention, c.layers)
        )
        self.norm = make_norm("layer", c.dim)
        self._decoder: tuple[IntentionDecoder, ...] = ()

    def attach(self, decoder: IntentionDecoder) -> Self:
        """Let :meth:`generate` decode intentions from brain signals; the decoder's weights stay its own."""
        size = decoder.clusters.centroids.shape[1]
        if size != self.config.intention:
            raise InputError(f"intentions have {self.config.intention} numbers here, the decoder's have {size}")
        self._decoder = (decoder,)  # in a tuple: no submodule, so that checkpoints stay the language model's alone
        return self

    def forward(
        self,
        question: Int[Tensor, "batch question"],
        scene: Float[Tensor, "batch streams bands frames"],
        answer: Int[Tensor, "batch answer"],
        intention: Float[Tensor, "batch intention"] | None = None,
        present: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch answer vocabulary"]:
        """Logits after each token of an answer, which begins with :data:`BEGIN`.

        Args:
            question, answer: bytes; scene: log-mel of the streams.
            intention: whom the listener attends to.
            present: in training, rows whose intention counts; all when None.
        """
        prefix = self.prefix(question, scene, intention, present)
        x = self._place(torch.cat((prefix, self.embedding(answer)), 1), 0)
        for block in self.blocks:
            x = block(x)
        return self._logits(x[:, prefix.shape[1] :])

    def prefix(
        self,
        question: Int[Tensor, "batch question"],
        scene: Float[Tensor, "batch streams bands frames"],
        intention: Float[Tensor, "batch intention"] | None = None,
        present: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """The tokens before an answer: question, each stream, intention."""
        batch, streams = scene.shape[:2]
        if streams != self.config.streams:
            raise InputError(f"the model hears scenes of {self.config.streams} streams, this one has {streams}")
        heard = self.listen(scene.flatten(0, 1)).unflatten(0, (batch, streams)) + self.marks[:, None]
        absent = self.no_intention.expand(batch, -1)
        token = absent if intention is None else self.project(intention)
        if present is not None:
            token = torch.where(present[:, None], token, absent)
        return torch.cat((self.embedding(question), heard.flatten(1, 2), token[:, None]), 1)

    def loss(
        self,
        question: Int[Tensor, "batch question"],
        scene: Float[Tensor, "batch streams bands frames"],
        answer: Int[Tensor, "batch answer"],
        intention: Float[Tensor, "batch intention"] | None = None,
        present: Bool[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, ""]:
        """Cross-entropy of answers ``[BEGIN, bytes, END, END, ...]``; what follows the first END does not count."""
        logits = self(question, scene, answer[:, :-1], intention, present)
        targets = answer[:, 1:]
        over = (targets == END).cumsum(1) > 1
        return F.cross_entropy(logits.flatten(0, 1), targets.masked_fill(over, -100).flatten())

    @torch.inference_mode()
    def generate(
        self,
        question: str,
        scene: Float[Tensor, "streams bands frames"],
        neural: Float[Tensor, "electrodes samples"] | None = None,
        intention: Float[Tensor, " intention"] | None = None,
        *,
        patient: int = 0,
        among: Int[Tensor, " streams"] | None = None,
        longest: int = 64,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Answer:
        """Answer a question about a scene, each new byte by one step on cached keys and values.

        Args:
            question: text.
            scene: log-mel of the separated streams.
            neural: what the listener's brain did, from which the attached decoder makes the intention.
            intention: or the intention itself. With neither, nobody is attended to.
            patient, among: for the decoder of the brain.
            longest: bytes of thought and answer.
            temperature, generator: of the sampling; greedy at 0.

        Raises:
            InputError: both ``neural`` and ``intention``, or brain signals and no decoder.
        """
        if neural is not None:
            if intention is not None:
                raise InputError("give brain signals or an intention, not both")
            if not self._decoder:
                raise InputError("no decoder of brain signals is attached: model.attach(IntentionDecoder(...))")
            choices = None if among is None else among[None]
            intention = self._decoder[0](neural[None], patient=patient, among=choices)[0]
        rows = None if intention is None else intention[None]
        made = self.answers(question, scene[None], rows, longest=longest, temperature=temperature, generator=generator)
        return made[0]

    @torch.inference_mode()
    def answers(
        self,
        question: str,
        scene: Float[Tensor, "batch streams bands frames"],
        intention: Float[Tensor, "batch intention"] | None = None,
        *,
        longest: int = 64,
        temperature: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> list[Answer]:
        """The same question about many scenes at once."""
        batch = len(scene)
        asked = encode([question]).to(scene.device).expand(batch, -1)
        told = _Told(self, self.prefix(asked, scene, intention))
        prompt = torch.full((batch, 1), BEGIN, device=scene.device)
        over = torch.zeros(batch, dtype=torch.bool, device=scene.device)
        made = []
        for token in generate(told, prompt, longest, temperature=temperature, generator=generator):
            over = over | (token >= BEGIN)
            if bool(over.all()):
                break
            made.append(torch.where(over, END, token))
        rows = torch.stack(made, 1).tolist() if made else [[] for _ in range(batch)]
        texts = (bytes(byte for byte in row if byte < BEGIN).decode("utf-8", errors="replace") for row in rows)
        return [Answer.parse(text) for text in texts]

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: SceneLMConfig | None = None) -> Self:
        """Build from a state dictionary of harken's own names: the authors published no weights."""
        if config is None:
            raise CheckpointError("a scene model's weights need their config.json beside them: pass the folder of both")
        return build(lambda: cls(config), state_dict)

    def _place(self, x: Tensor, first: int) -> Tensor:
        index = torch.arange(first, first + x.shape[1], device=x.device)
        return self.dropout(x + self.config.dim**-0.5 * sinusoidal_positions(index, self.config.dim).to(x.dtype))

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.norm(x), self.embedding.weight)


class _Told:
    """A scene model that has read what comes before an answer: what :func:`generate` asks for."""

    def __init__(self, model: SceneLM, prefix: Tensor):
        self.model, self.prefix = model, prefix

    def init_state(self, batch_size: int) -> tuple[Any, ...]:
        weight = self.prefix
        states = tuple(
            block.attention.init_state(batch_size, device=weight.device, dtype=weight.dtype)  # type: ignore[union-attr, operator]
            for block in self.model.blocks
        )
        _, states = self._through(self.model._place(self.prefix, 0), states)
        return (*states, self.prefix.shape[1])

    def step(self, tokens: Tensor, state: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        *states, position = state
        x = self.model._place(self.model.embedding(tokens), position)
        x, after = self._through(x, tuple(states))
        return self.model._logits(x), (*after, position + tokens.shape[1])

    def _through(self, x: Tensor, states: tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
        after = []
        for block, state in zip(self.model.blocks, states, strict=True):
            x, state = block.step(x, state)  # type: ignore[operator]
            after.append(state)
        return x, tuple(after)


def encode(texts: Sequence[str], *, answers: bool = False) -> Int[Tensor, "texts bytes"]:
    """Bytes of texts as rows; answers begin with :data:`BEGIN` and are filled up with :data:`END`.

    Raises:
        InputError: questions of different lengths: put them in batches of their own.

    >>> encode(["ab"], answers=True).tolist()
    [[256, 97, 98, 257]]
    """
    rows = [list(text.encode()) for text in texts]
    if answers:
        longest = max(map(len, rows)) + 1
        rows = [[BEGIN, *row, *[END] * (longest - len(row))] for row in rows]
    if len({len(row) for row in rows}) != 1:
        raise InputError("questions of one batch must have one length")
    return torch.tensor(rows, dtype=torch.long).reshape(len(rows), -1)
