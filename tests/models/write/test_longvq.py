"""The block around LongVQ's attention: MEGA's gated residual and a feed-forward part."""

from __future__ import annotations

import torch

from harken.attention.longvq import LongVqAttention
from harken.models.write.longvq import LongVqBlock


def block_of(feed_forward_dim: int) -> LongVqBlock:
    torch.manual_seed(0)
    return LongVqBlock(LongVqAttention(8, causal=True, codebook_size=5, window=3), feed_forward_dim).eval()


def test_a_closed_gate_passes_the_input_on(seed: torch.Generator) -> None:
    block, x = block_of(0), torch.randn(1, 6, 8, generator=seed)
    with torch.no_grad():
        block.attention.memory_proj.bias[:8] = -1e4
    torch.testing.assert_close(block(x), x)


def test_a_stream_equals_the_whole(seed: torch.Generator) -> None:
    block, x = block_of(16), torch.randn(2, 11, 8, generator=seed)
    state, parts = block.init_state(2), []
    for part in x.split((1, 4, 6), 1):
        y, state = block.step(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), block(x), atol=1e-5, rtol=1e-5)
