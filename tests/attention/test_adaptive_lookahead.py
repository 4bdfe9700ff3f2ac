"""Adaptive look-ahead against its definition, and its latency against what outputs really depend on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harken.attention import adaptive_lookahead
from harken.attention.adaptive_lookahead import (
    AdaptiveLookaheadAttention,
    _reference,
    expected_ready,
    lookahead_attention,
)
from harken.errors import InputError
from harken.observation import observe


def build(**options: object) -> AdaptiveLookaheadAttention:
    """A layer whose frames differ in how long they wait."""
    torch.manual_seed(0)
    layer = AdaptiveLookaheadAttention(8, 2, **{"past": 4, "lookahead": 3, "gate_bias": 0.8, **options})  # type: ignore[arg-type]
    if layer.scheduler is not None:
        torch.nn.init.normal_(layer.scheduler[3].weight, std=0.7)
    return layer.eval()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 13),
    past=st.integers(0, 15),
    lookahead=st.integers(0, 4),
    padded=st.integers(0, 12),
    hard=st.booleans(),
    block=st.sampled_from([1, 3, 64]),
)
def test_equals_the_definition(time: int, past: int, lookahead: int, padded: int, hard: bool, block: int) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    gates = torch.rand(2, time, lookahead, generator=generator, dtype=torch.float64)
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive_lookahead, "_BLOCK", block)
        mixed = lookahead_attention(q, k, v, gates, past=past, mask=mask, hard=hard)
    expected = _reference(q, k, v, gates, past=past, mask=mask, hard=hard)
    real = mask[:, None, :, None]
    torch.testing.assert_close(mixed * real, expected * real, atol=1e-10, rtol=1e-10)


def test_gradients_are_those_of_the_definition(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 5, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))
    gates = torch.rand(1, 5, 2, generator=seed, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: lookahead_attention(*inputs, past=2), (q, k, v, gates))


def test_without_lookahead_it_is_the_causal_layer(seed: torch.Generator) -> None:
    x = torch.randn(2, 9, 8, generator=seed)
    none, causal = build(lookahead=0), build(causal=True)
    causal.load_state_dict(none.state_dict())
    assert torch.equal(none(x), causal(x))


def test_open_gates_are_a_fixed_lookahead(seed: torch.Generator) -> None:
    x = torch.randn(2, 9, 8, generator=seed)
    open_, fixed = build(gate_bias=100.0), build(schedule="fixed")
    fixed.load_state_dict({name: w for name, w in open_.state_dict().items() if "proj" in name})
    torch.testing.assert_close(open_(x), fixed(x))


def test_chunks_see_themselves_whole(seed: torch.Generator) -> None:
    layer, x = build(schedule="chunked", lookahead=3, past=100), torch.randn(1, 10, 8, generator=seed)
    sees = (layer.weights(x)[0, 0] > 0).long()
    assert sees.sum(-1).tolist() == [4] * 4 + [8] * 4 + [10] * 2


@pytest.mark.parametrize("nested", [True, False])
def test_an_output_depends_on_no_frame_after_it_is_known(nested: bool, seed: torch.Generator) -> None:
    """The latency of a stack, tested exactly: change a frame and see which outputs move."""
    layers, x = [build(nested=nested, gate_bias=bias) for bias in (0.6, 0.3)], torch.randn(1, 16, 8, generator=seed)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        ready = torch.arange(16.0)[None]
        for layer in layers:
            ready = expected_ready(layer.gates(x), ready, past=layer.past, nested=nested)
            x = x + layer(x)
        return x, ready[0]

    y, ready = run(x)
    assert ready.max() - 15 == 0 and len((ready - torch.arange(16)).unique()) > 2
    for k in range(16):
        changed = x.clone()
        changed[:, k] += 10 * torch.randn(8, generator=seed)
        moved = (run(changed)[0] - y).abs().amax(-1)[0] > 1e-6
        assert not moved[ready < k].any()
        # ... and the frame that made an output wait is one that it sees
        assert moved[(ready == k) & (torch.arange(16) <= k)].all()


@pytest.mark.parametrize("nested", [True, False])
def test_the_expected_latency_is_the_mean_over_gates(nested: bool, seed: torch.Generator) -> None:
    gates = torch.rand(1, 6, 3, generator=seed) * (torch.arange(6)[:, None] + torch.arange(1, 4) < 6)
    if nested:
        gates = gates.cummin(-1).values
    ready = torch.arange(6.0) + torch.rand(1, 6, generator=seed).mul(4).round()
    draws = torch.rand(20000, 6, 1 if nested else 3, generator=seed)
    open_ = (draws < gates).float()
    drawn = expected_ready(open_, ready.expand(20000, 6), past=1, nested=nested)
    by_hand = [
        max(
            [ready[0, j] for j in range(max(0, i - 1), i + 1)]
            + [ready[0, i + r + 1] for r in range(3) if open_[0, i, r]]
        )
        for i in range(6)
    ]
    assert drawn[0].tolist() == [float(value) for value in by_hand]
    expected = expected_ready(gates, ready, past=1, nested=nested)
    torch.testing.assert_close(expected[0], drawn.mean(0), atol=0.05, rtol=0)


def test_a_frame_comes_out_as_soon_as_what_it_waits_for_is_in(seed: torch.Generator) -> None:
    layer, x = build(), torch.randn(1, 20, 8, generator=seed)
    waits = layer.gates(x)[0].sum(-1).long()
    assert len(waits.unique()) > 2
    known = (torch.arange(20) + waits).cummax(0).values  # in order
    state, came = layer.init_state(1), []
    for now in range(20):
        y, state = layer.step(x[:, now : now + 1], state)
        came += [now] * y.shape[1]
    assert came == known[: len(came)].tolist()


def test_waiting_costs_a_loss_that_teaches_to_wait_less(seed: torch.Generator) -> None:
    layer, x = build(latency_penalty=0.5).train(), torch.randn(2, 9, 8, generator=seed)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        with observe(layer, "loss") as seen:
            layer(x)
        optimizer.zero_grad()
        seen.total().backward()  # type: ignore[union-attr]
        optimizer.step()
        losses.append(seen.total().item())  # type: ignore[union-attr]
    assert losses[-1] < losses[0] / 2


def test_nested_gates_weigh_their_wait(seed: torch.Generator) -> None:
    layer, x = build(latency_penalty=0.5).train(), torch.randn(2, 9, 8, generator=seed)
    with observe(layer, "loss") as seen:
        layer(x)
    torch.testing.assert_close(seen.total(), 0.5 * layer.gates(x).sum(-1).mean())
    with observe(layer, "loss") as seen:
        layer(x, gates=layer.gates(x))  # whoever brings the gates brings the penalty
    assert seen.all("loss") == []


def test_straight_through_gates_are_hard_and_have_a_gradient(seed: torch.Generator) -> None:
    layer, x = build(training_gates="straight-through"), torch.randn(1, 9, 8, generator=seed)
    hard = layer(x)
    soft_gradient = layer.train()(x)
    torch.testing.assert_close(soft_gradient, hard, atol=1e-4, rtol=1e-4)
    soft_gradient.square().sum().backward()
    assert layer.scheduler is not None and layer.scheduler[3].weight.grad.abs().max() > 0


def test_nobody_waits_for_padding(seed: torch.Generator) -> None:
    layer, x = build(gate_bias=5.0), torch.randn(1, 6, 8, generator=seed)
    mask = torch.tensor([[True, True, True, True, False, False]])
    assert layer.gates(x, mask=mask)[0].sum(-1).tolist() == [3, 2, 1, 0, 0, 0]


def test_time_is_linear(seed: torch.Generator) -> None:
    layer = build()
    assert layer.cost(1, 4096).flops == pytest.approx(4 * layer.cost(1, 1024).flops, rel=0.01)


@pytest.mark.border
def test_wrong_options_get_a_line() -> None:
    for options, line in [
        ({"past": -1}, "past=-1"),
        ({"schedule": "full"}, "one of 'adaptive', 'fixed', 'chunked'"),
        ({"training_gates": "hard"}, "one of 'soft', 'straight-through'"),
    ]:
        with pytest.raises(InputError, match=line):
            AdaptiveLookaheadAttention(8, 2, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="init_state"):
        build().flush(())
