"""LongVQ: blocks of gated attention over a structured memory and vector-quantised keys (arXiv 2404.11163)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.attention.longvq import LongVqAttention, LongVqState
from harken.errors import CheckpointError


class LongVqBlock(nn.Module):
    """The gated attention with its gated residual, then a feed-forward part: ``(batch, time, dim)`` to the same shape.

    ``x + u (y - x)`` with gate ``u`` and value ``y`` of the attention on ``norm(x)``, then
    ``x + W_2 silu(W_1 norm(x))`` (MEGA, arXiv 2209.10655, equations 12 to 14, which LongVQ builds on).

    Args:
        attention: the mixing layer; its ``dim`` and order are the block's.
        feed_forward_dim: inner channels of the feed-forward part; 0 leaves it out.

    >>> block = LongVqBlock(LongVqAttention(16, causal=True, codebook_size=8, window=4), feed_forward_dim=32)
    >>> x = torch.randn(2, 20, 16)
    >>> y, state = block.eval().step(x, block.init_state(2))
    >>> torch.allclose(y, block(x), atol=1e-5)
    True
    """

    def __init__(self, attention: LongVqAttention, feed_forward_dim: int = 0):
        super().__init__()
        self.attention = attention
        self.norm = nn.LayerNorm(attention.dim)
        self.feed_forward = (
            nn.Sequential(
                nn.LayerNorm(attention.dim),
                nn.Linear(attention.dim, feed_forward_dim),
                nn.SiLU(),
                nn.Linear(feed_forward_dim, attention.dim),
            )
            if feed_forward_dim
            else None
        )

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor]) -> LongVqBlock:
        """MEGA's ``MovingAverageGatedAttention`` with softmax attention, pre-norm and simple relative bias.

        Raises:
            CheckpointError: a parameter is missing or has another shape.
        """
        block = cls(LongVqAttention.from_authors(state_dict))
        try:
            block.norm.load_state_dict({part: state_dict[f"norm.norm.{part}"] for part in ("weight", "bias")})
        except (KeyError, RuntimeError) as problem:
            raise CheckpointError(f"not a MEGA attention with LayerNorm: {str(problem).splitlines()[-1]}") from None
        return block

    def forward(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """All positions at once; ``mask`` is True where a position is real."""
        gate, y = self.attention.gate_and_value(self.norm(x), mask=mask)
        return self._finish(x, gate, y)

    def init_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LongVqState:
        """The state before the first position; of the attention alone."""
        return self.attention.init_state(batch_size, device=device, dtype=dtype)

    def step(
        self, x: Float[Tensor, "batch time dim"], state: LongVqState
    ) -> tuple[Float[Tensor, "batch time dim"], LongVqState]:
        """The next positions of a stream, and the state after them."""
        gate, y, state = self.attention.step_gate_and_value(self.norm(x), state)
        return self._finish(x, gate, y), state

    def _finish(self, x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
        x = torch.addcmul(x, gate, y - x)
        return x if self.feed_forward is None else x + self.feed_forward(x)
