"""The Conformer block with any attention inside."""

import pytest
import torch

import harken
from harken.layers.conformer import ConformerBlock


@pytest.mark.parametrize("name", harken.list_attention(bidirectional=True, grid=False))
def test_any_bidirectional_attention_fits(name):
    block = ConformerBlock(8, harken.create_attention(name, dim=8, heads=2), kernel_size=3)
    x = torch.randn(2, 5, 8, requires_grad=True)
    with harken.observe(block, "loss") as seen:  # some parameters learn from what is emitted alone
        y = block(x)
    (y.square().sum() + seen.total()).backward()
    assert y.shape == x.shape
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_in_evaluation_a_row_does_not_depend_on_the_others():
    block = ConformerBlock(8, harken.create_attention("softmax", dim=8, heads=2), kernel_size=3).eval()
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(block(x)[:1], block(x[:1]), atol=1e-6, rtol=1e-5)
