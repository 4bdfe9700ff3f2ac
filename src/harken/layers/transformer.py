"""The transformer block that language models and classifiers share: any attention, any of the usual norms and FFNs."""

from __future__ import annotations

from typing import Any, Literal

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.errors import InputError

Norm = Literal["layer", "rms", "simple-rms"]
FeedForward = Literal["gelu", "swiglu", "none"]


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + ffn(norm(x))``; without an FFN the second line is left out.

    Args:
        dim: channels.
        attention: the mixing layer, anything that keeps the contract of :class:`harken.attention.Attention`.
        norm: see :func:`make_norm`.
        ffn: see :func:`make_feed_forward`.
        expansion: hidden channels of the FFN over ``dim``.
        dropout: of what each line adds, and of the FFN's hidden channels.
        norm_first: False for the first transformers' and BERT's order, ``norm(x + attention(x))``.

    Shape: ``(batch, time, dim)`` to the same.
    """

    def __init__(
        self,
        dim: int,
        attention: nn.Module,
        *,
        norm: Norm = "layer",
        ffn: FeedForward = "gelu",
        expansion: float = 4.0,
        dropout: float = 0.0,
        norm_first: bool = True,
    ):
        super().__init__()
        self.norm1 = make_norm(norm, dim)
        self.attention = attention
        self.ffn = make_feed_forward(ffn, dim, expansion, dropout)
        self.norm2 = None if self.ffn is None else make_norm(norm, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self,
        x: Float[Tensor, "batch time dim"],
        *,
        mask: Bool[Tensor, "batch time"] | None = None,
        grid: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        if not self.norm_first:
            return self._transform(self.norm1(x + self.dropout(self.attention(x, mask=mask, grid=grid))))
        return self._transform(x + self.dropout(self.attention(self.norm1(x), mask=mask, grid=grid)))

    def step(self, x: Float[Tensor, "batch time dim"], state: Any) -> tuple[Float[Tensor, "batch time dim"], Any]:
        """The next positions of a stream, with the attention's state after them."""
        mixed, state = self.attention.step(self.norm1(x) if self.norm_first else x, state)  # type: ignore[operator]
        mixed = x + self.dropout(mixed)
        return self._transform(mixed if self.norm_first else self.norm1(mixed)), state

    def _transform(self, x: Tensor) -> Tensor:
        if self.ffn is None or self.norm2 is None:
            return x
        if not self.norm_first:
            return self.norm2(x + self.dropout(self.ffn(x)))
        return x + self.dropout(self.ffn(self.norm2(x)))


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))`` (arXiv 2002.05202), with two thirds of the hidden channels, so of equal size."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_up = nn.Linear(dim, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


def make_norm(kind: Norm, dim: int) -> nn.Module:
    """``"layer"``, ``"rms"``, or ``"simple-rms"``: RMS without a learned scale, as TransNormerLLM has it."""
    if kind == "layer":
        return nn.LayerNorm(dim)
    if kind in ("rms", "simple-rms"):
        return nn.RMSNorm(dim, eps=1e-6, elementwise_affine=kind == "rms")
    raise InputError(f"norm must be layer, rms or simple-rms, got {kind!r}")


def make_feed_forward(kind: FeedForward, dim: int, expansion: float = 4.0, dropout: float = 0.0) -> nn.Module | None:
    """``"gelu"`` (``dropout`` of its hidden channels), ``"swiglu"``, or None for ``"none"``."""
    hidden = round(dim * expansion)
    if kind == "gelu":
        # side by side with the activation, so that parameters are called the same with dropout and without
        activation = nn.Sequential(nn.GELU(), nn.Dropout(dropout)) if dropout else nn.GELU()
        return nn.Sequential(nn.Linear(dim, hidden), activation, nn.Linear(hidden, dim))
    if kind == "swiglu":
        return SwiGLU(dim, max(1, round(hidden * 2 / 3)))
    if kind == "none":
        return None
    raise InputError(f"ffn must be gelu, swiglu or none, got {kind!r}")
