"""Mixture-of-Head attention: its gates, what is computed, and what it converts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import create_attention, moh
from harken.attention.moh import MoHAttention, _reference, moh_attention
from harken.errors import InputError
from harken.observation import observe
from tests.attention.kit import Check, Subject, battery


class Routed(MoHAttention):
    """The two heads of the battery's layers, of which each position takes one; computed sparsely from the start."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False):
        shared = 0 if heads == 2 else None
        super().__init__(dim, heads, causal=causal, shared_heads=shared, sparse_from=1)


@pytest.mark.parametrize(
    ("check", "subject"), [parameter for parameter in battery(Routed) if "counter" not in str(parameter.id)]
)
def test_contract_where_heads_are_skipped(check: Check, subject: Subject) -> None:
    check(subject)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 11),
    before=st.integers(0, 3),
    split=st.sampled_from(((0, 1), (1, 1), (2, 1), (1, 3), (4, 0))),
    kv_heads=st.sampled_from((2, 4)),
    causal=st.booleans(),
    padded=st.booleans(),
)
def _equals(time: int, before: int, split: tuple[int, int], kv_heads: int, causal: bool, padded: bool) -> None:
    generator = torch.Generator().manual_seed(time)
    (shared, routed), keys = split, time + before
    q, k, v = (
        torch.randn(2, h, n, 3, generator=generator, dtype=torch.float64)
        for h, n in ((4, time), (kv_heads, keys), (kv_heads, keys))
    )
    gates = torch.rand(2, time, 4, generator=generator, dtype=torch.float64)
    chosen = gates[..., shared:].topk(routed, -1).indices + shared
    gates[..., shared:] = torch.zeros_like(gates).scatter(-1, chosen, gates.gather(-1, chosen))[..., shared:]
    mask = torch.arange(keys) < torch.tensor([[keys], [max(1, keys - 3)]]) if padded else None
    mixed = moh_attention(q, k, v, gates, shared, causal=causal, mask=mask)
    torch.testing.assert_close(mixed, _reference(q, k, v, gates, causal=causal, mask=mask), atol=1e-10, rtol=1e-10)


def test_equals_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moh, "_LOT", 3)
    _equals()


@pytest.mark.parametrize("causal", [False, True])
def test_skipping_heads_changes_nothing(causal: bool, seed: torch.Generator) -> None:
    layers = [MoHAttention(32, 8, causal=causal, shared_heads=2, routed_heads=2, sparse_from=n) for n in (1, 1000)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(2, 12, 32, generator=seed)
    gradients = []
    for layer in layers:
        layer(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in layer.parameters()])
    torch.testing.assert_close(layers[0](x), layers[1](x))
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_equal_logits_are_plain_attention(seed: torch.Generator) -> None:
    layer, plain = MoHAttention(16, 4, shared_heads=2, routed_heads=2), create_attention("softmax", dim=16, heads=4)
    for router in (layer.routed, layer.shared, layer.between):
        torch.nn.init.zeros_(router.weight)
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(1, 7, 16, generator=seed)
    torch.testing.assert_close(layer.route(x), torch.ones(1, 7, 4))
    torch.testing.assert_close(layer(x), plain(x))


def test_the_gates_keep_the_scale(seed: torch.Generator) -> None:
    layer, x = MoHAttention(32, 8, shared_heads=3, routed_heads=2), torch.randn(2, 9, 32, generator=seed)
    gates = layer.route(x)
    first, second = (2 * layer.between(x).softmax(-1)).unbind(-1)
    assert ((gates[..., 3:] > 0).sum(-1) == 2).all()
    torch.testing.assert_close(gates[..., :3].sum(-1), 3 * first)
    torch.testing.assert_close(gates[..., 3:].sum(-1), 2 * second)
    assert layer.to(torch.bfloat16).route(x.bfloat16()).dtype == torch.float32


def test_an_even_load_costs_what_is_chosen(seed: torch.Generator) -> None:
    layer, x = MoHAttention(16, 8, shared_heads=2, routed_heads=2), torch.randn(2, 10, 16, generator=seed)
    torch.nn.init.zeros_(layer.routed.weight)
    even = layer.load_balance(x)
    assert even.item() == pytest.approx(2.0)
    crowded = torch.nn.init.ones_(layer.routed.weight).detach()
    crowded[1:] = -crowded[1:]
    assert layer.load_balance(x.abs()) > even
    mask = torch.arange(10) < torch.tensor([[10], [4]])
    padded = torch.where(mask[..., None], x, 9.0)
    torch.testing.assert_close(layer.load_balance(padded, mask), layer.load_balance(x, mask))


def test_training_emits_the_load_and_everyone_can_see_the_routing(seed: torch.Generator) -> None:
    layer, x = MoHAttention(16, 4, shared_heads=1, routed_heads=1), torch.randn(1, 9, 16, generator=seed)
    with observe(layer, "loss", "routing") as seen:
        layer.train()(x)
    torch.testing.assert_close(seen.total(), 0.01 * layer.load_balance(x))
    torch.testing.assert_close(seen["routing"][""], layer.route(x))
    with observe(layer, "loss") as seen:
        layer.eval()(x)
    assert not seen.entries


def test_gradients_reach_the_router_through_the_chosen_heads_only(seed: torch.Generator) -> None:
    layer, x = MoHAttention(16, 4, shared_heads=0, routed_heads=1, router="norm"), torch.randn(1, 1, 16, generator=seed)
    q = layer.project(x)[0].detach().requires_grad_()
    gates, _ = layer._gates(x, q)
    assert sorted(gates[0, 0].tolist()) == [0, 0, 0, 1]
    gates.sum().backward()
    assert q.grad is not None and q.grad.abs().sum() > 0


@pytest.mark.parametrize("causal", [False, True])
def test_the_cost_of_skipping_is_what_a_counter_counts(causal: bool, seed: torch.Generator) -> None:
    layer = MoHAttention(64, 8, causal=causal, shared_heads=2, routed_heads=2, sparse_from=64).eval()
    x = torch.randn(1, 600, 64, generator=seed)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        layer(x)
    assert layer.cost(1, 600).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.border
def test_mistakes_are_named() -> None:
    for split in ((5, 0), (2, 0), (2, 3), (-1, 1), (4, 1)):
        with pytest.raises(InputError, match="do not split heads=4"):
            MoHAttention(16, 4, shared_heads=split[0], routed_heads=split[1])
    with pytest.raises(InputError, match="router='best' is unknown"):
        MoHAttention(16, 4, router="best")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="there is no load"):
        MoHAttention(16, 4, shared_heads=4).load_balance(torch.ones(1, 2, 16))
    with pytest.raises(InputError, match="expected qkv and proj"):
        MoHAttention.from_authors({"qkv.weight": torch.ones(48, 16)}, heads=4)
