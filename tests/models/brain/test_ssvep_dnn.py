"""The network: its two forms for speed are the same function, and the authors' names load."""

from __future__ import annotations

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models.brain._subject_fitting import NOBODY, PersonalBudget, fit_each
from harken.models.brain.ssvep_dnn import SSVEPNet, SSVEPNetConfig, logits_by_products


def trained_looking(config: SSVEPNetConfig) -> SSVEPNet:
    """Weights of a size at which every layer matters."""
    net = SSVEPNet(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) / 4)
    return net.eval()


@pytest.mark.parametrize("samples", [64, 51])
@torch.inference_mode()
def test_fused_and_by_products_it_is_the_same_function(samples):
    net = trained_looking(SSVEPNetConfig(5, samples, 7, 3, 8, (0.5, 0.5, 0.5)))
    x = torch.randn(4, 3, 5, samples)
    torch.testing.assert_close(net.fused()(x), net(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits_by_products(net.state_dict(), x), net(x), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_classes_in_another_order_are_logits_in_another_order():
    net, order = trained_looking(SSVEPNetConfig.small()), torch.tensor([1, 0])
    x = torch.randn(3, 3, 5, 64)
    before = net(x)
    net.fc_layer.weight.copy_(net.fc_layer.weight[order])
    net.fc_layer.bias.copy_(net.fc_layer.bias[order])
    torch.testing.assert_close(net(x), before[:, order])


def test_the_penalty_spares_biases():
    net = SSVEPNet(SSVEPNetConfig.small())
    net.penalty().backward()
    assert net.fc_layer.bias.grad is None
    torch.testing.assert_close(net.fc_layer.weight.grad, net.fc_layer.weight.detach())


def test_bfloat16_stays_close():
    net, x = trained_looking(SSVEPNetConfig.small()), torch.randn(8, 3, 5, 64)
    exact = net(x)
    assert (net.bfloat16()(x.bfloat16()).float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_sizes_come_from_the_authors_weights_and_odd_lengths_need_a_configuration():
    config = SSVEPNetConfig(4, 33, 3, 2, 6)
    state = {f"model.{name}": tensor for name, tensor in SSVEPNet(config).state_dict().items()}
    assert SSVEPNet.from_authors(state).config == SSVEPNetConfig(4, 32, 3, 2, 6)
    assert SSVEPNet.from_authors(state, config).config == config
    with pytest.raises(CheckpointError, match="another model"):
        SSVEPNet.from_authors({**state, "extra": torch.zeros(1)})


@pytest.mark.parametrize("wrong", [{"classes": 0}, {"samples": 1}, {"dropout": (0.1, 0.1, 1.0)}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError, match="expected"):
        SSVEPNetConfig(**wrong)


def test_everybody_at_once_is_one_after_the_other():
    net = SSVEPNet(SSVEPNetConfig(3, 20, 2, 2, 4, (0.0, 0.0, 0.0)))
    x, y = torch.randn(3, 5, 2, 3, 20), torch.randint(2, (3, 5))
    y[1, 3:] = NOBODY
    x[1, 3:] = torch.nan_to_num(x[1, 3:]) * 1e3  # rows that fill up may hold anything finite
    budget = PersonalBudget(epochs=4, lr=1e-2)
    together, alone = (fit_each(net, x, y, budget, together=way) for way in (True, False))
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], atol=2e-4, rtol=1e-3)
    assert not torch.equal(together["fc_layer.weight"][0], together["fc_layer.weight"][1])


def test_a_loss_that_explodes_is_said_so():
    net = SSVEPNet(SSVEPNetConfig(3, 20, 2, 2, 4, (0.0, 0.0, 0.0)))
    x, y = torch.randn(1, 4, 2, 3, 20) * 1e30, torch.randint(2, (1, 4))
    with pytest.raises(InputError, match="lower lr"):
        fit_each(net, x * 1e20, y, PersonalBudget(epochs=3))
