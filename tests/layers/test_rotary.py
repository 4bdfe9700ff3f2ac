"""Rotary positions against complex numbers."""

from __future__ import annotations

import torch

from harken.layers.rotary import rotate


def test_is_a_turn_in_the_complex_plane(seed: torch.Generator) -> None:
    x = torch.randn(2, 3, 5, 8, generator=seed)
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]])
    turned = torch.complex(x[..., :4], x[..., 4:])
    for pair in range(4):
        angle = positions / 2.0 * 100.0 ** (-2 * pair / 8)
        turned[..., pair] *= torch.polar(torch.ones(()), angle)[:, None]
    ours = rotate(x, positions, base=100.0, scale=2.0)
    torch.testing.assert_close(ours, torch.cat((turned.real, turned.imag), -1))


def test_half_precision_keeps_far_positions_apart() -> None:
    x = torch.ones(1, 1, 2, 64)
    rough = rotate(x.bfloat16(), torch.tensor([[100_000, 100_001]]))
    assert (rough.float() - rotate(x, torch.tensor([[100_000, 100_001]]))).abs().max() < 0.02
