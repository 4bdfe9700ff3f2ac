"""ConvNeXt blocks: the form that only computes is the form that learns."""

from __future__ import annotations

import pytest
import torch

from harken.layers.convnext import ConvNeXtBlock


@pytest.mark.parametrize(("length", "kernel"), [(20, 7), (2, 7), (1, 3)])
def test_shifted_sums_are_the_convolution(length, kernel):
    torch.manual_seed(0)
    block, x = ConvNeXtBlock(8, kernel=kernel, scale=1.0), torch.randn(2, length, 8)
    with torch.inference_mode():
        quick = block(x)
    torch.testing.assert_close(quick, block(x), atol=1e-5, rtol=1e-5)
