"""Mamba streams, and is causal each way."""

from __future__ import annotations

import pytest
import torch

from harken.layers.mamba import BothWays, Mamba, ResidualMamba


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return Mamba(8, states=4).eval()


@pytest.mark.parametrize("sizes", [(1,) * 9, (4, 5), (2, 7)])
def test_a_stream_is_the_whole(layer, sizes):
    x, state, parts = noise(2, 9, 8), layer.init_state(2), []
    for part in x.split(sizes, 1):
        y, state = layer.step(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x), atol=1e-5, rtol=1e-4)


def test_it_is_causal(layer):
    x = noise(1, 12, 8)
    changed = x.clone()
    changed[:, 6:] += 1
    torch.testing.assert_close(layer(changed)[:, :6], layer(x)[:, :6])


def test_step_sizes_begin_between_a_thousandth_and_a_tenth(layer):
    steps = torch.nn.functional.softplus(layer.step_proj.bias)
    assert steps.min() >= 1e-3 * 0.99
    assert steps.max() <= 0.1 * 1.01


def test_both_ways_is_one_way_each():
    torch.manual_seed(0)
    both, x = BothWays(ResidualMamba(8, states=4), ResidualMamba(8, states=4)).eval(), noise(1, 10, 8)
    ahead, back = both(x).chunk(2, -1)
    torch.testing.assert_close(ahead, both.forwards(x))
    torch.testing.assert_close(back.flip(1), both.backwards(x.flip(1)))
