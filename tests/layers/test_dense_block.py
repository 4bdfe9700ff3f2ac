"""Convolution, instance norm and dense block: the forms for inference equal those that train."""

import pytest
import torch
from torch import nn

from harken.layers import dense_block
from harken.layers.dense_block import DenseBlock, NormAct, NormalisedConv


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(dense_block, "_WINDOW", 20)
    monkeypatch.setattr(dense_block, "_PIECE", 12)


def perturbed(layer: nn.Module) -> nn.Module:
    """The layer with weights that no initialisation gives, so that none of them is neutral."""
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.2, 0.5)
    return layer.eval()


@pytest.mark.parametrize("shape", [(1, 4, 1, 2), (1, 4, 11, 7), (3, 4, 9, 5), (2, 4, 2, 30)])
@pytest.mark.parametrize("norm", ["instance", "layer"])
@pytest.mark.parametrize("depth", [1, 4])
def test_a_dense_block_infers_what_it_trains(shape, norm, depth):
    layer = perturbed(DenseBlock(4, norm, depth))
    x = torch.randn(shape)
    with torch.inference_mode():
        quick = layer(x)
    assert quick.shape == shape
    torch.testing.assert_close(quick, layer(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_a_normalised_convolution_infers_what_it_trains_and_leaves_its_input(norm, memory_format):
    layer = perturbed(NormalisedConv(nn.Conv2d(3, 4, (1, 3)), norm))
    x = torch.randn(2, 3, 5, 9).contiguous(memory_format=memory_format)
    before = x.clone()
    with torch.inference_mode():
        quick = layer(x)
    torch.testing.assert_close(quick, layer(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(x, before)


def test_the_variance_survives_a_mean_far_larger():
    layer = NormAct(4, "instance").eval()
    x = torch.randn(1, 4, 30, 8)
    with torch.inference_mode():
        quick = layer((x + 1000).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(quick, layer(x), atol=1e-3, rtol=1e-3)


def test_a_hook_on_a_part_is_called():
    layer = DenseBlock(4, "instance", 2).eval()
    seen = []
    layer.layers[1][1].register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.inference_mode():
        layer(torch.randn(1, 4, 3, 5))
    assert seen == [(1, 4, 3, 5)]
