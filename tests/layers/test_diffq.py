"""DiffQ: noise as large as a step, sizes exactly as stored, and packed weights that come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from harken.errors import CheckpointError, InputError
from harken.layers.diffq import (
    DiffQ,
    DiffQConfig,
    add_pseudo_noise,
    dequantise,
    quantise,
    straight_through,
    uniform_size,
)
from harken.layers.packed_weights import is_packed, pack, unpack

SMALL = DiffQConfig(min_size=2e-4)


def layer(inputs=16, outputs=12, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs)


def with_bits(made, bits):
    """A quantiser whose groups have these bits."""
    quantiser = DiffQ(made, SMALL)
    share = (torch.as_tensor(bits) - 2) / 13
    with torch.no_grad():
        quantiser.logits[0].copy_(torch.logit(share, eps=1e-7).expand(len(quantiser.logits[0])) / SMALL.speed)
    return quantiser


def test_small_tensors_and_those_that_groups_do_not_fill_stay():
    assert DiffQ(nn.Sequential(nn.Linear(16, 12), nn.Linear(7, 5)), SMALL).names == ["0.weight"]


def test_bits_begin_where_they_are_told():
    assert torch.allclose(DiffQ(layer(), SMALL).bits()["weight"], torch.tensor(8.0))


def test_levels_are_at_most_as_many_as_the_bits_allow():
    weight = torch.randn(512, generator=torch.Generator().manual_seed(0))
    for bits in (1, 2, 5):
        found = quantise(weight, torch.full((64,), bits))
        assert len(torch.unique(dequantise(found))) <= 2**bits
        step = (weight.max() - weight.min()) / (2**bits - 1)
        assert (dequantise(found).flatten() - weight).abs().max() <= step / 2 + 1e-6


def test_noise_has_the_size_of_half_a_step():
    weight = torch.linspace(-1, 1, 80_000)
    bits = torch.cat((torch.full((5000,), 3.0), torch.full((5000,), 6.0)))
    noise = torch.randn(80_000, generator=torch.Generator().manual_seed(0))
    moved = (add_pseudo_noise(weight, bits, noise) - weight).view(2, -1).std(1)
    assert torch.allclose(moved, torch.tensor([1 / 7, 1 / 63]), rtol=0.02)


def test_the_size_is_that_of_the_packed_bytes():
    made = layer(64, 40)
    quantiser = with_bits(made, torch.randint(2, 16, (320,), generator=torch.Generator().manual_seed(0)).float())
    packed = pack(made.state_dict(), quantiser.quantise(made), quantiser.config)
    stored = packed["weight.diffq"].numel() + 4 * 40
    assert stored - quantiser.true_size(made) * 2**20 == pytest.approx(0, abs=1)  # rounded up to a byte
    assert quantiser.size(made).item() == pytest.approx(quantiser.true_size(made), rel=1e-4)  # bits are whole


def test_the_size_falls_with_the_bits():
    made = layer()
    quantiser = DiffQ(made, SMALL)
    quantiser.size(made).backward()
    assert (quantiser.logits[0].grad > 0).all()


def test_noisy_weights_pass_gradients_to_weights_and_bits():
    made = layer()
    quantiser = DiffQ(made, SMALL)
    x = torch.randn(3, 16)
    functional_call(made, quantiser.noisy(made, torch.Generator().manual_seed(0)), (x,)).square().sum().backward()
    assert made.weight.grad.abs().sum() > 0
    assert quantiser.logits[0].grad.abs().sum() > 0


def test_a_recurrent_layer_computes_with_the_weights_it_is_given():
    lstm = nn.LSTM(8, 8)
    quantiser = DiffQ(lstm, SMALL)
    x = torch.randn(4, 1, 8)
    noisy = functional_call(lstm, quantiser.noisy(lstm), (x,))[0]
    assert not torch.allclose(noisy, lstm(x)[0])
    noisy.sum().backward()
    assert lstm.weight_hh_l0.grad is not None


@pytest.mark.parametrize("bits", [2.0, 8.0, 15.0])
def test_packed_weights_come_back(bits):
    made = layer(64, 40)
    quantiser = with_bits(made, bits)
    packed = pack(made.state_dict(), quantiser.quantise(made), quantiser.config)
    assert is_packed(packed)
    state = unpack(packed, made.state_dict())
    with quantiser.quantised(made):
        assert torch.equal(state["weight"], made.weight)
    assert torch.equal(state["bias"], made.bias)


def test_weights_are_themselves_again_after_the_block():
    made = layer()
    before = made.weight.clone()
    with with_bits(made, 2.0).quantised(made):
        assert len(torch.unique(made.weight)) <= 4
    assert torch.equal(made.weight, before)


def test_a_constant_tensor_stays():
    assert torch.equal(dequantise(quantise(torch.full((16,), 0.3), torch.tensor([4, 4]))), torch.full((2, 8), 0.3))


@pytest.mark.parametrize("damage", ["short", "long", "width", "bits", "nan", "unknown", "mark"])
def test_damaged_bytes_are_refused(damage):
    made = layer(64, 40)
    quantiser = with_bits(made, 8.0)
    packed = pack(made.state_dict(), quantiser.quantise(made), quantiser.config)
    data = packed["weight.diffq"].clone()
    if damage == "short":
        data = data[:-3]
    elif damage == "long":
        data = torch.cat((data, data[:1]))
    elif damage == "width":
        data[8] = 200
    elif damage == "bits":
        data[9:40] = 255
    elif damage == "nan":
        data[:8] = 255
    elif damage == "unknown":
        packed["other.diffq"] = data
    else:
        packed["diffq"] = torch.zeros(3, dtype=torch.uint8)
    packed["weight.diffq"] = data
    with pytest.raises(CheckpointError):
        unpack(packed, made.state_dict())


def test_straight_through_has_the_gradient_of_the_weight():
    weight = torch.randn(32, requires_grad=True)
    made = straight_through(weight, 3)
    assert len(torch.unique(made.detach())) <= 8 + 8  # rounding of w + (q - w)
    made.sum().backward()
    assert torch.equal(weight.grad, torch.ones(32))


def test_uniform_sizes_count_the_range():
    assert uniform_size(layer(), ["weight"], 4) * 2**23 == pytest.approx(4 * 192 + 64 + 32 * 12)


@pytest.mark.border
@pytest.mark.parametrize("wrong", [{"group_size": 0}, {"max_bits": 16}, {"min_bits": 9}, {"speed": 0.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(InputError):
        DiffQConfig(**wrong)
