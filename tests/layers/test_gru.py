"""The inference form of the bidirectional GRU equals PyTorch's."""

import pytest
import torch
from torch import nn

from harken.layers.gru import bidirectional_gru


@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (5, 1), (3, 20)])
def test_both_directions_equal_nn_gru(rows, length):
    gru = nn.GRU(6, 10, bidirectional=True, batch_first=True)
    x = torch.randn(rows, length, 6)
    with torch.inference_mode():
        forward, backward = bidirectional_gru(gru, x)
        expected = gru(x)[0]
    ours = torch.cat((forward, backward), 1).permute(2, 0, 1)
    torch.testing.assert_close(ours, expected, atol=1e-6, rtol=1e-5)


def test_half_precision_stays_close():
    gru = nn.GRU(6, 10, bidirectional=True, batch_first=True)
    x = torch.randn(3, 20, 6)
    with torch.inference_mode():
        exact = torch.cat(bidirectional_gru(gru, x), 1)
        rough = torch.cat(bidirectional_gru(gru.bfloat16(), x.bfloat16()), 1)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)
