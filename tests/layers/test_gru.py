"""The inference form of the bidirectional GRU equals PyTorch's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from harken.layers import gru as module
from harken.layers.gru import add_bidirectional_gru


def layers() -> tuple[nn.GRU, nn.Linear]:
    return nn.GRU(6, 10, bidirectional=True, batch_first=True), nn.Linear(20, 3)


def added(gru: nn.GRU, linear: nn.Linear, x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        out = out.clone()
        add_bidirectional_gru(out, x, gru, linear)
    return out


@pytest.mark.parametrize("rows_at_once", [2, 320])
@pytest.mark.parametrize(("rows", "length"), [(1, 1), (1, 7), (5, 1), (3, 8), (5, 20)])
def test_it_adds_what_nn_gru_and_the_linear_layer_give(rows, length, rows_at_once, monkeypatch):
    monkeypatch.setattr(module, "_ROWS", rows_at_once)
    gru, linear = layers()
    x, out = torch.randn(rows, length, 6), torch.randn(rows, length, 3)
    expected = out + linear(F.leaky_relu(gru(x)[0]))
    torch.testing.assert_close(added(gru, linear, x, out), expected, atol=1e-6, rtol=1e-5)


def test_it_leaves_its_input_alone_and_reads_any_strides():
    gru, linear = layers()
    x, out = torch.randn(20, 3, 6), torch.zeros(3, 20, 3)
    before = x.clone()
    strided = added(gru, linear, x.transpose(0, 1), out)
    assert torch.equal(strided, added(gru, linear, x.transpose(0, 1).contiguous(), out))
    assert torch.equal(x, before)


def test_half_precision_stays_close():
    gru, linear = layers()
    x, out = torch.randn(3, 20, 6), torch.zeros(3, 20, 3)
    exact = added(gru, linear, x, out)
    rough = added(gru.bfloat16(), linear.bfloat16(), x.bfloat16(), out.bfloat16())
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, atol=0.03, rtol=0.03)
