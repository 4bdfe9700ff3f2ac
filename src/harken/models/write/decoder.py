"""A compact decoder language model, any causal attention in any layer (GPT's outline, arXiv 2005.14165)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.attention import create_attention, take_turns
from harken.errors import CheckpointError, InputError
from harken.layers.positions import sinusoidal_positions
from harken.layers.transformer import FeedForward, Norm, TransformerBlock, make_norm
from harken.models._base import Model, build


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes and choices of :class:`Decoder`.

    Attributes:
        vocabulary: tokens; 256 reads plain bytes, so any text and no tokenizer.
        dim, layers, heads: width, blocks, heads a block.
        attention: one mechanism with its options (``"span:span_size=64"``) for all layers, or several that take turns
            through the layers: ``("span:span_size=64", "softmax")`` alternates, one entry a layer says it all.
        norm, ffn, expansion: of the blocks, see :mod:`harken.layers.transformer`.
        positions: ``"sinusoidal"`` (any length), ``"learned"`` (up to ``longest``) or ``"none"``.
        longest: positions of a learned table.
        tied: the output reads the embedding's own matrix.
        dropout: of the embeddings.
    """

    vocabulary: int = 256
    dim: int = 256
    layers: int = 6
    heads: int = 8
    attention: tuple[str, ...] = ("softmax",)
    norm: Norm = "layer"
    ffn: FeedForward = "gelu"
    expansion: float = 4.0
    positions: str = "sinusoidal"
    longest: int = 2048
    tied: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.dim, self.layers, self.heads, self.longest) < 1 or self.layers > 1000:
            raise InputError("vocabulary, dim, layers (at most 1000), heads and longest must be positive")
        if self.positions not in ("sinusoidal", "learned", "none"):
            raise InputError(f"positions must be sinusoidal, learned or none, got {self.positions!r}")
        take_turns(self.attention, self.layers)  # says so where they are none, or too many
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout is a probability below 1, got {self.dropout}")

    @classmethod
    def small(cls) -> Self:
        """Trains in minutes on a laptop: 0.8 M parameters."""
        return cls(dim=128, layers=4, heads=4)


class DecoderState(NamedTuple):
    """What a stream of tokens carries: each layer's attention state, and how many tokens went by, ``(batch,)``."""

    layers: tuple
    position: Tensor


class Decoder(Model):
    """Tokens to the logits of the next token, in causal order.

    Shape:
        - tokens: ``(batch, time)``, integers below ``vocabulary``
        - logits: ``(batch, time, vocabulary)``

    >>> model = Decoder(Decoder.Config.small())
    >>> model(torch.zeros(1, 5, dtype=torch.long)).shape
    torch.Size([1, 5, 256])
    """

    slug: ClassVar[str] = "decoder"
    Config: ClassVar[type[DecoderConfig]] = DecoderConfig

    def __init__(self, config: DecoderConfig | None = None):
        super().__init__(config)
        c = self.config
        self.embedding = nn.Embedding(c.vocabulary, c.dim)
        nn.init.normal_(self.embedding.weight, std=c.dim**-0.5)
        self.positions = nn.Embedding(c.longest, c.dim) if c.positions == "learned" else None
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                c.dim,
                create_attention(mechanism, dim=c.dim, heads=c.heads, causal=True),
                norm=c.norm,
                ffn=c.ffn,
                expansion=c.expansion,
            )
            for mechanism in take_turns(c.attention, c.layers)
        )
        self.norm = make_norm(c.norm, c.dim)
        self.head = None if c.tied else nn.Linear(c.dim, c.vocabulary, bias=False)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        """Logits after every token.

        Raises:
            InputError: more tokens than a learned table has positions.
        """
        index = torch.arange(tokens.shape[1], device=tokens.device)
        x = self._embed(tokens, index)
        for block in self.blocks:
            x = block(x)
        return self._logits(x)

    def init_state(self, batch_size: int) -> DecoderState:
        """The state before the first token.

        Raises:
            CapabilityError: a layer's mechanism cannot stream.
        """
        weight = self.embedding.weight
        layers = tuple(
            block.attention.init_state(batch_size, device=weight.device, dtype=weight.dtype)  # type: ignore[union-attr, operator]
            for block in self.blocks
        )
        return DecoderState(layers, torch.zeros(batch_size, dtype=torch.long, device=weight.device))

    def step(
        self, tokens: Int[Tensor, "batch time"], state: DecoderState
    ) -> tuple[Float[Tensor, "batch time vocabulary"], DecoderState]:
        """Logits after the next tokens, one or many, and the state after them; equals :meth:`forward` in one go."""
        index = state.position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        x = self._embed(tokens, index)
        layers = []
        for block, before in zip(self.blocks, state.layers, strict=True):
            x, after = block.step(x, before)  # type: ignore[operator]
            layers.append(after)
        return self._logits(x), DecoderState(tuple(layers), state.position + tokens.shape[1])

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: DecoderConfig | None = None) -> Self:
        """Build from a state dictionary of harken's own names; there are no authors behind this model."""
        if config is None:
            raise CheckpointError("a decoder's weights need their config.json beside them: pass the folder of both")
        return build(lambda: cls(config), state_dict)

    def _embed(self, tokens: Tensor, index: Tensor) -> Tensor:
        x = self.embedding(tokens)
        if self.positions is not None:
            if index.numel() and not torch.compiler.is_compiling() and int(index.max()) >= self.config.longest:
                raise InputError(
                    f"{int(index.max()) + 1} tokens are more than the {self.config.longest} positions that were "
                    "learned: use positions='sinusoidal', or raise longest"
                )
            x = x + self.positions(index)
        elif self.config.positions == "sinusoidal":
            x = x + self.config.dim**-0.5 * sinusoidal_positions(index, self.config.dim).to(x.dtype)
        return self.dropout(x)

    def _logits(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.head is not None:
            return self.head(x)
        return nn.functional.linear(x, self.embedding.weight)
