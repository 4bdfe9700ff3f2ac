"""A classifier of long series and documents, any bidirectional attention in any layer (outline: arXiv 2011.04006)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention import create_attention, take_turns
from harken.errors import CheckpointError, InputError
from harken.layers.positions import sinusoidal_positions
from harken.layers.transformer import FeedForward, Norm, TransformerBlock, make_norm
from harken.models._base import Model, build


@dataclass(frozen=True)
class SequenceClassifierConfig:
    """Sizes and choices of :class:`SequenceClassifier`.

    Attributes:
        classes: how many there are.
        channels: of a series; None where the input is tokens.
        vocabulary: of tokens; 256 reads plain bytes.
        patch: positions of a series that become one vector (its last, incomplete patch is padded with zeros).
        dim, layers, heads: width, blocks, heads a block.
        attention: mechanisms that take turns through the layers, each with its options (``"span:span_size=64"``).
        norm, ffn, expansion: of the blocks, see :mod:`harken.layers.transformer`.
    """

    classes: int = 2
    channels: int | None = None
    vocabulary: int = 256
    patch: int = 1
    dim: int = 128
    layers: int = 4
    heads: int = 4
    attention: tuple[str, ...] = ("softmax",)
    norm: Norm = "layer"
    ffn: FeedForward = "gelu"
    expansion: float = 4.0

    def __post_init__(self) -> None:
        sizes = (self.classes, self.vocabulary, self.patch, self.dim, self.layers, self.heads, self.channels or 1)
        if min(sizes) < 1 or self.layers > 1000:
            raise InputError("classes, channels, vocabulary, patch, dim, layers (at most 1000), heads must be positive")
        if self.patch > 1 and self.channels is None:
            raise InputError("patches are of series: give channels, or patch=1 for tokens")
        take_turns(self.attention, self.layers)  # says so where they are none, or too many

    @classmethod
    def small(cls) -> Self:
        """Trains in minutes on a laptop."""
        return cls(dim=64, layers=2, heads=2)


class SequenceClassifier(Model):
    """A sequence, any length, to the logits of its class: embedding, blocks, mean over real positions, one matrix.

    Shape:
        - tokens ``(batch, time)`` of integers, or series ``(batch, time, channels)``
        - mask ``(batch, time)``, True where a position is real
        - logits ``(batch, classes)``

    >>> model = SequenceClassifier(SequenceClassifier.Config(classes=3, channels=2, patch=4, dim=16, layers=1, heads=2))
    >>> model(torch.randn(5, 30, 2)).shape
    torch.Size([5, 3])
    """

    slug: ClassVar[str] = "sequence-classifier"
    Config: ClassVar[type[SequenceClassifierConfig]] = SequenceClassifierConfig

    def __init__(self, config: SequenceClassifierConfig | None = None):
        super().__init__(config)
        c = self.config
        self.embedding: nn.Module
        if c.channels is None:
            self.embedding = nn.Embedding(c.vocabulary, c.dim)
            nn.init.normal_(self.embedding.weight, std=c.dim**-0.5)
        else:
            self.embedding = nn.Linear(c.patch * c.channels, c.dim)
            # no louder than the positions, or order is learned late
            nn.init.normal_(self.embedding.weight, std=(c.dim * c.patch * c.channels) ** -0.5)
            nn.init.zeros_(self.embedding.bias)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                c.dim,
                create_attention(mechanism, dim=c.dim, heads=c.heads),
                norm=c.norm,
                ffn=c.ffn,
                expansion=c.expansion,
            )
            for mechanism in take_turns(c.attention, c.layers)
        )
        self.norm = make_norm(c.norm, c.dim)
        self.head = nn.Linear(c.dim, c.classes)

    def forward(
        self,
        x: Int[Tensor, "batch time"] | Float[Tensor, "batch time channels"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch classes"]:
        """Logits of each sequence's class.

        Args:
            x: tokens, or a series.
            mask: True where a position is real; all are when None.
            grid: ``(H, W)`` of image tokens or patches, for mechanisms that live on a grid.

        Raises:
            InputError: tokens where a series is expected, or the other way round.
        """
        c = self.config
        expected = 2 if c.channels is None else 3
        if x.ndim != expected or (c.channels is not None and x.shape[-1] != c.channels):
            what = "tokens (batch, time)" if c.channels is None else f"a series (batch, time, {c.channels})"
            raise InputError(f"expected {what}, got shape {tuple(x.shape)}")
        if c.channels is not None:
            if mask is not None:
                x = x.masked_fill(~mask[..., None], 0.0)  # a patch may be half padding
            missing = -x.shape[1] % c.patch
            x = nn.functional.pad(x, (0, 0, 0, missing)).unflatten(1, (-1, c.patch)).flatten(2)
            if mask is not None:
                mask = nn.functional.pad(mask, (0, missing)).unflatten(1, (-1, c.patch)).any(-1)
        x = self.embedding(x)
        index = torch.arange(x.shape[1], device=x.device)
        x = x + c.dim**-0.5 * sinusoidal_positions(index, c.dim).to(x.dtype)
        for block in self.blocks:
            x = block(x, mask=mask, grid=grid)
        x = self.norm(x)
        if mask is None:
            return self.head(x.mean(1))
        real = mask[..., None].to(x.dtype)
        return self.head((x * real).sum(1) / real.sum(1).clamp(min=1))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: SequenceClassifierConfig | None = None) -> Self:
        """Build from a state dictionary of harken's own names; there are no authors behind this model."""
        if config is None:
            raise CheckpointError("a classifier's weights need their config.json beside them: pass the folder of both")
        return build(lambda: cls(config), state_dict)
