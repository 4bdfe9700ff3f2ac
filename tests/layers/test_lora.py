"""Low-rank updates: nothing at first, the same merged and unmerged, and never added twice."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from harken.attention import create_attention
from harken.errors import CapabilityError, InputError
from harken.layers.lora import LoRALinear, adapt_query_and_value, adapted_layers, merge_updates, unmerge_updates


def adapted(**options) -> LoRALinear:
    layer = LoRALinear(nn.Linear(6, 12), 2, **options)
    for update in layer.updates:
        nn.init.normal_(update.up)
    return layer.eval()


def test_it_begins_as_the_layer_it_was_made_of():
    base, x = nn.Linear(6, 12), torch.randn(4, 6)
    expected = base(x)
    assert torch.equal(LoRALinear(base, 2)(x), expected)


@pytest.mark.parametrize("rows", [None, [(0, 4)], [(8, 12), (0, 4)], [(3, 7)]])
def test_it_equals_its_definition_merged_unmerged_and_plain(rows):
    layer, x = adapted(rows=rows, alpha=3.0), torch.randn(2, 5, 6)
    expected = nn.functional.linear(x, layer.weight, layer.bias).detach()
    for (start, stop), update in zip(rows or [(0, 12)], layer.updates, strict=True):
        expected[..., start:stop] += 3.0 / 2 * x @ (update.up @ update.down).detach().T
    before = layer.weight.clone()
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.plain()(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.merge().merge()(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.plain()(x), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.unmerge().weight, before, atol=1e-6, rtol=1e-6)


def test_only_the_updates_are_trained():
    layer = adapted()
    layer(torch.randn(3, 6)).square().sum().backward()
    assert {name for name, parameter in layer.named_parameters() if parameter.grad is not None} == {
        "updates.0.down",
        "updates.0.up",
    }


def test_saved_while_merged_it_is_not_added_twice():
    layer, x = adapted(), torch.randn(3, 6)
    expected = layer(x)
    again = LoRALinear(nn.Linear(6, 12), 2).merge()
    again.load_state_dict(layer.merge().state_dict())
    assert not again.merged
    torch.testing.assert_close(again(x), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["softmax", "multivariate"])
def test_queries_and_values_change_and_keys_do_not(name):
    layer = create_attention(name, dim=8, heads=2, **({"kv_heads": 1} if name == "multivariate" else {}))
    x, grid = torch.randn(2, 6, 8), (3, 2)
    before = layer(x, grid=grid)
    projections = adapt_query_and_value(layer, 2)
    assert torch.equal(layer(x, grid=grid), before)
    for projection in projections:
        plain = nn.functional.linear(x, projection.weight, projection.bias)
        for update in projection.updates:
            nn.init.normal_(update.up)
        changed = (projection(x) - plain).abs().amax((0, 1)) > 0
        width = projection.out_features
        if name == "softmax":
            assert changed.tolist() == [True] * 8 + [False] * 8 + [True] * 8
        elif projection is projections[0]:
            assert changed.all()
        else:
            assert changed.tolist() == [False] * (width // 2) + [True] * (width // 2)
    unmerged = layer(x, grid=grid)
    assert not torch.allclose(unmerged, before)
    merge_updates(layer)
    assert all(found.merged for found in adapted_layers(layer))
    torch.testing.assert_close(layer(x, grid=grid), unmerged, atol=1e-5, rtol=1e-5)
    unmerge_updates(layer)
    torch.testing.assert_close(layer(x, grid=grid), unmerged, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"rank": 0}, {"dropout": 1.0}, {"rows": []}, {"rows": [(0, 13)]}])
def test_impossible_updates_are_refused(options):
    with pytest.raises(InputError):
        LoRALinear(nn.Linear(6, 12), **options)


def test_what_has_no_projections_says_so():
    with pytest.raises(CapabilityError, match="no projections to queries and values"):
        adapt_query_and_value(nn.Identity())
