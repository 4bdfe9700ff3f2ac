"""The study's language model: a decoder whose layers may take queries and keys from elsewhere (arXiv 2510.11602)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.models.write.decoder import Decoder, DecoderConfig

FIXED = ("rnd-emb-qk", "fixed-seq-qk")


class DeconstructedDecoder(nn.Module):
    """A decoder of :class:`~harken.attention.deconstructed.DeconstructedAttention`, variants taking turns.

    Blocks are as in the study: root-mean-square norms, rotary positions, SwiGLU. ``static-emb-qk`` takes queries and
    keys from the embeddings, through its block's norm. For ``rnd-emb-qk`` and ``fixed-seq-qk`` a constant sequence
    goes through the same blocks beside the data, and each such layer takes queries and keys from it.

    Args:
        variants: of the layers, taking turns; at most one of those with a constant sequence.
        dim, layers, heads, vocabulary: as of :class:`~harken.models.write.decoder.DecoderConfig`.
        text: tokens of the constant sequence of ``fixed-seq-qk``, as long as the longest input.
        longest: positions of the noise of ``rnd-emb-qk``, which is as large as the embeddings.
        seed: of that noise.

    Shape: tokens ``(batch, time)`` to logits ``(batch, time, vocabulary)``.
    """

    def __init__(
        self,
        variants: Sequence[str],
        dim: int,
        layers: int,
        heads: int,
        vocabulary: int,
        *,
        text: Int[Tensor, " positions"] | None = None,
        longest: int = 2048,
        seed: int = 0,
    ):
        super().__init__()
        self.variants = tuple(variants)
        attention = tuple(f"deconstructed:variant={name}{_options(name)}" for name in variants)
        config = DecoderConfig(
            vocabulary, dim, layers, heads, attention, norm="rms", ffn="swiglu", expansion=4.0, positions="none"
        )
        self.decoder = Decoder(config)
        self.noise: Tensor | None
        self.text: Tensor | None
        noise = None
        if "rnd-emb-qk" in variants:
            noise = dim**-0.5 * torch.randn(longest, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("noise", noise)
        self.register_buffer("text", text if "fixed-seq-qk" in variants else None)

    def forward(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocabulary"]:
        embedded = x = self.decoder.embedding(tokens)
        stream = self._stream(tokens.shape[1])
        blocks: list[Any] = list(self.decoder.blocks)
        for block in blocks:
            attention, normed = block.attention, block.norm1(x)
            beside = None if stream is None else block.norm1(stream)
            if attention.variant == "static-emb-qk":
                x = x + attention(normed, source=block.norm1(embedded))
            elif attention.variant in FIXED:
                x = x + attention(normed, source=beside)
            else:
                x = x + attention(normed)
            x = x + block.ffn(block.norm2(x))
            if stream is not None and beside is not None and block is not blocks[-1]:
                own = {"source": beside} if attention.variant in FIXED else {}
                stream = stream + attention(beside[None], **own)[0]
                stream = stream + block.ffn(block.norm2(stream))
        return nn.functional.linear(self.decoder.norm(x), self.decoder.embedding.weight)

    def without(self, variants: Sequence[str]) -> DeconstructedDecoder:
        """The same model, and the same weights, without the layers of these variants: the study's skip models."""
        import copy

        left = copy.deepcopy(self)
        blocks: list[Any] = list(left.decoder.blocks)
        left.decoder.blocks = nn.ModuleList(block for block in blocks if block.attention.variant not in variants)
        return left

    def _stream(self, time: int) -> Tensor | None:
        if self.noise is not None:
            return self.noise[:time]
        return None if self.text is None else self.decoder.embedding(self.text[:time])


def _options(variant: str) -> str:
    """Rotary positions where queries meet keys."""
    return "" if variant == "mlp" else ",rotary_base=10000.0"
