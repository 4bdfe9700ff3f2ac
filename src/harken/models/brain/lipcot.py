"""LiPCoT's encoder: a small BERT over words of a signal, pre-trained by filling gaps (arXiv 2408.07292)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from harken.attention import create_attention, parse_attention
from harken.errors import CheckpointError, InputError
from harken.layers.transformer import TransformerBlock
from harken.models._base import Model, build

PAD, UNKNOWN, CLASS, END, GAP = range(5)
SPECIAL = 5  # entries before the first word
_BERT_EPS = 1e-12


@dataclass(frozen=True)
class LiPCoTConfig:
    """Sizes and choices of :class:`LiPCoT`; the defaults are the paper's.

    Attributes:
        vocabulary: words; the five special entries are extra.
        classes: what the head tells apart.
        length: words of a sentence, at most; the paper's 64 positions less the first and last.
        dim, layers, heads: width, blocks, heads of each.
        hidden: channels of the feed-forward layers.
        attention: ``relative`` knows distances; any other bidirectional mechanism gets a learned table of places.
        dropout: of embeddings, blocks and head.
    """

    vocabulary: int = 64
    classes: int = 2
    length: int = 62
    dim: int = 256
    layers: int = 6
    heads: int = 1
    hidden: int = 3072
    attention: str = "relative"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        sizes = (self.vocabulary, self.classes, self.length, self.dim, self.layers, self.heads, self.hidden)
        if min(sizes) < 1 or max(sizes) > 1 << 20 or self.layers > 1000:
            raise InputError("expected sizes of at least 1, and at most 1000 layers")
        if not 0 <= self.dropout < 1:
            raise InputError(f"expected dropout of 0 up to, but not, 1, got {self.dropout}")

    @classmethod
    def small(cls) -> Self:
        """Pre-trains on hundreds of sentences in half a minute."""
        return cls(dim=64, layers=2, heads=2, hidden=256)


class LiPCoT(Model):
    """``[CLS] words [SEP]`` through BERT's blocks; the first position tells the class, each gap its word.

    Shape:
        - words: ``(batch, length)``, whole numbers from 0; a negative one is missing and not attended to
        - logits: ``(batch, classes)``, or of the words, ``(batch, length, vocabulary)``

    >>> model = LiPCoT(LiPCoTConfig.small()).eval()
    >>> words = torch.randint(0, 64, (3, 59))
    >>> model(words).shape, model.word_logits(words).shape
    (torch.Size([3, 2]), torch.Size([3, 59, 64]))
    """

    slug = "lipcot"
    Config: ClassVar[type[LiPCoTConfig]] = LiPCoTConfig
    config: LiPCoTConfig

    def __init__(self, config: LiPCoTConfig | None = None):
        super().__init__(config)
        c = self.config
        relative = parse_attention(c.attention)[0] == "relative"
        options: dict[str, Any] = {"max_relative_position": c.length + 2, "share_heads": True} if relative else {}
        self.words = nn.Embedding(c.vocabulary + SPECIAL, c.dim)
        self.places = None if relative else nn.Parameter(0.02 * torch.randn(c.length + 2, c.dim))
        self.norm = nn.LayerNorm(c.dim, eps=_BERT_EPS)
        self.dropout = nn.Dropout(c.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                c.dim,
                create_attention(c.attention, dim=c.dim, heads=c.heads, **options),
                expansion=c.hidden / c.dim,
                dropout=c.dropout,
                norm_first=False,
            )
            for _ in range(c.layers)
        )
        self.gap_head = nn.Sequential(nn.Linear(c.dim, c.dim), nn.GELU(), nn.LayerNorm(c.dim, eps=_BERT_EPS))
        self.gap_bias = nn.Parameter(torch.zeros(c.vocabulary + SPECIAL))
        self.head = nn.Linear(c.dim, c.classes)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            for norm in (block.norm1, block.norm2):
                norm.eps = _BERT_EPS  # type: ignore[union-attr]

    def forward(self, words: Int[Tensor, "batch length"]) -> Float[Tensor, "batch classes"]:
        """Logits of each sentence's class.

        Raises:
            InputError: sentences longer than the model knows places for, or a word that it does not know.
        """
        return self.head(self.dropout(self.encode(words)[:, 0]))

    def word_logits(
        self, words: Int[Tensor, "batch length"], gaps: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "batch length vocabulary"]:
        """Which word belongs at each place; those at ``gaps`` are hidden from the model."""
        entries = self._entries(words)
        if gaps is not None:
            entries[:, 1:-1] = entries[:, 1:-1].masked_fill(gaps, GAP)
        inside = self._encode(entries)[:, 1:-1]
        logits = F.linear(self.gap_head(inside), self.words.weight, self.gap_bias)
        return logits[..., SPECIAL:]

    def gap_loss(self, words: Int[Tensor, "batch length"], share: float = 0.15) -> Tensor:
        """Cross entropy of words that were hidden, a share of the real ones at random.

        Of these, eight in ten become a gap, one another word, one stays, as in BERT (arXiv 1810.04805), so that the
        model cannot rely on seeing what is asked. Random numbers are torch's.
        """
        real = words >= 0
        asked = (torch.rand(words.shape, device=words.device) < share) & real
        how = torch.rand(words.shape, device=words.device)
        other = torch.randint(0, self.config.vocabulary, words.shape, device=words.device)
        shown = torch.where(asked & (how >= 0.9), other, words)
        logits = self.word_logits(shown, asked & (how < 0.8))
        target = torch.where(asked, words, -100)
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum") / (
            asked.sum().clamp_min(1)
        )

    def encode(self, words: Int[Tensor, "batch length"]) -> Float[Tensor, "batch positions dim"]:
        """The last block's output, with ``[CLS]`` first and ``[SEP]`` last."""
        return self._encode(self._entries(words))

    def _entries(self, words: Tensor) -> Tensor:
        """Rows of the embedding: words behind the special entries, between ``[CLS]`` and ``[SEP]``."""
        c = self.config
        if words.ndim != 2 or words.shape[1] > c.length:
            raise InputError(f"expected sentences (batch, up to {c.length} words), got {tuple(words.shape)}")
        if words.numel() and int(words.max()) >= c.vocabulary:
            raise InputError(f"word {int(words.max())} is not among the {c.vocabulary} that the model knows")
        entries = torch.where(words < 0, PAD, words + SPECIAL)
        return F.pad(F.pad(entries, (1, 0), value=CLASS), (0, 1), value=END)

    def _encode(self, entries: Tensor) -> Tensor:
        mask = None if bool((entries != PAD).all()) else entries != PAD
        x = self.words(entries)
        if self.places is not None:
            x = x + self.places[: entries.shape[1]]
        x = self.dropout(self.norm(x))
        for block in self.blocks:
            x = block(x, mask=mask)
        return x

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: LiPCoTConfig | None = None) -> Self:
        """A model with the weights of the authors' BERT, pre-trained (``BertForMaskedLM``) or fine-tuned.

        What a checkpoint lacks, the class head of the one or the word head of the other, is zero.
        """
        try:
            config = config or _config_of(state_dict)
            state = _from_theirs(state_dict, config)
        except (KeyError, AttributeError, IndexError, TypeError, ValueError, RuntimeError) as problem:
            raise CheckpointError(f"these are not weights of LiPCoT's BERT: {str(problem)[:100]}") from None
        return build(lambda: cls(config), state)


def _config_of(given: Mapping[str, Any]) -> LiPCoTConfig:
    entries, dim = given["bert.embeddings.word_embeddings.weight"].shape
    distances, head_dim = given["bert.encoder.layer.0.attention.self.distance_embedding.weight"].shape
    return LiPCoTConfig(
        vocabulary=entries - SPECIAL,
        length=(distances + 1) // 2 - 2,
        dim=dim,
        layers=1 + max(int(name.split(".")[3]) for name in given if name.startswith("bert.encoder.layer.")),
        heads=dim // head_dim,
        hidden=given["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        classes=given["classifier.weight"].shape[0] if "classifier.weight" in given else 2,
    )


_BLOCK = {
    "attention.output.dense": "attention.out_proj",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "ffn.0",
    "output.dense": "ffn.2",
    "output.LayerNorm": "norm2",
}
_OUTSIDE = {
    "bert.embeddings.LayerNorm": "norm",
    "cls.predictions.transform.dense": "gap_head.0",
    "cls.predictions.transform.LayerNorm": "gap_head.2",
}


def _from_theirs(given: Mapping[str, Any], c: LiPCoTConfig) -> dict[str, Tensor]:
    words = given["bert.embeddings.word_embeddings.weight"]
    zero = words.new_zeros
    state = {
        # every word is of the first sentence of BERT's pair, whose mark is a constant; in the word head, which is tied,
        # it adds the same to all logits
        "words.weight": words + given["bert.embeddings.token_type_embeddings.weight"][0],
        "gap_bias": given.get("cls.predictions.bias", zero(len(words))),
        "head.weight": given.get("classifier.weight", zero(c.classes, c.dim)),
        "head.bias": given.get("classifier.bias", zero(c.classes)),
    }
    for theirs, ours in _OUTSIDE.items():
        for kind, shape in (("weight", (c.dim, c.dim) if ours == "gap_head.0" else (c.dim,)), ("bias", (c.dim,))):
            name = f"{theirs}.{kind}"
            state[f"{ours}.{kind}"] = given.get(name, zero(shape)) if theirs.startswith("cls.") else given[name]
    for number in range(c.layers):
        layer, block = f"bert.encoder.layer.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            state |= {f"{block}.{ours}.{kind}": given[f"{layer}.{theirs}.{kind}"] for theirs, ours in _BLOCK.items()}
            parts = [given[f"{layer}.attention.self.{part}.{kind}"] for part in ("query", "key", "value")]
            state[f"{block}.attention.in_proj.{kind}"] = torch.cat(parts)
        # theirs begins at the furthest key ahead, ours at the furthest behind
        state[f"{block}.attention.key_table"] = given[f"{layer}.attention.self.distance_embedding.weight"].flip(0)
    return state
