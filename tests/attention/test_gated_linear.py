"""Gated linear attention: the authors' tensors, its gates, its convolution, its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import gated_linear
from harken.attention.gated_linear import GatedLinearAttention, _reference
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import observe
from harken.papers.parity import check_parity, load_case

CASE = Path(__file__).parents[1] / "parity/lina-speech"


def test_the_authors_tensors() -> None:
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert set(report.not_compared) == {"gla_in"}


def test_a_fresh_layer_forgets_slowly(seed: torch.Generator) -> None:
    gates = GatedLinearAttention(16, 2, causal=True).log_decay(torch.randn(1, 50, 16, generator=seed)).exp()
    assert 0.9 < gates.min() < gates.max() < 1
    assert gates.mean().item() == pytest.approx(0.5 ** (1 / 16), abs=0.005)


def test_the_convolution_is_a_grouped_one(seed: torch.Generator) -> None:
    layer = GatedLinearAttention(16, 2, causal=True)
    x = torch.randn(2, 7, 16, generator=seed)
    padded = F.pad(layer.in_proj(x).transpose(1, 2), (3, 0))
    right = F.silu(F.conv1d(padded, layer.conv_weight.unsqueeze(1), groups=padded.shape[1])).transpose(1, 2)
    q, k, v, _ = layer._project(x, None, None)
    joined = torch.cat([part.transpose(1, 2).flatten(2) for part in (2 * q, k, v)], -1)  # key_dim is 4
    torch.testing.assert_close(joined, right)


def test_the_layer_is_the_recurrence_between_its_projections(seed: torch.Generator) -> None:
    layer = GatedLinearAttention(16, 2, causal=True, chunk_size=4)
    x = torch.randn(1, 11, 16, generator=seed)
    q, k, v, _ = layer._project(x, None, None)
    mixed, _ = _reference(q, k, v, layer.log_decay(x))
    torch.testing.assert_close(layer(x), layer._merge(x, mixed), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [{"conv_size": 0}, {"expand_key": 1.0, "expand_value": 2.0}, {"conv_size": 1}])
def test_every_form_streams_and_costs_what_it_says(options: dict, seed: torch.Generator) -> None:
    layer = GatedLinearAttention(16, 2, causal=True, chunk_size=4, **options)
    x = torch.randn(2, 9, 16, generator=seed)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    assert layer.cost(2, 9).flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    state, parts = layer.init_state(2), []
    for part in x.split([6, 1, 2], 1):
        mixed, state = layer.step(part, state)
        parts.append(mixed)
    torch.testing.assert_close(torch.cat(parts, 1), y, atol=1e-5, rtol=1e-5)


def test_another_initial_state_is_heard_and_can_be_learned(seed: torch.Generator) -> None:
    """How a voice is held: nothing but the state a stream starts from."""
    layer = GatedLinearAttention(16, 2, causal=True, chunk_size=4)
    x, empty = torch.randn(1, 9, 16, generator=seed), layer.init_state(1)
    voice = torch.randn(1, 2, 4, 8, generator=seed).requires_grad_()
    y, _ = layer.step(x, empty._replace(keys_values=voice))
    assert (y - layer(x)).abs().max() > 1e-3
    assert torch.autograd.grad(y.square().sum(), voice)[0].abs().max() > 0
    torch.testing.assert_close(layer.step(x, empty)[0], layer(x), atol=1e-5, rtol=1e-5)


def test_padding_forgets_nothing(seed: torch.Generator) -> None:
    layer = GatedLinearAttention(16, 2, causal=True, conv_size=0)
    x = torch.randn(1, 4, 16, generator=seed)
    apart = torch.cat((x[:, :2], torch.randn(1, 6, 16, generator=seed), x[:, 2:]), 1)
    mask = torch.tensor([[True] * 2 + [False] * 6 + [True] * 2])
    torch.testing.assert_close(layer(apart, mask=mask)[mask], layer(x)[0], atol=1e-5, rtol=1e-5)


def test_long_sequences_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    layer = GatedLinearAttention(8, 2, causal=True, chunk_size=4)
    x, mask = torch.randn(2, 21, 8, generator=seed), torch.rand(2, 21, generator=seed) > 0.3
    whole = layer(x, mask=mask)
    monkeypatch.setattr(gated_linear, "PIECE", 8)
    torch.testing.assert_close(layer(x, mask=mask)[mask], whole[mask], atol=1e-5, rtol=1e-5)


def test_a_stream_does_not_grow() -> None:
    layer = GatedLinearAttention(16, 2, causal=True)
    _, state = layer.step(torch.ones(1, 300, 16), layer.init_state(1))
    assert state.keys_values.untyped_storage().nbytes() == 2 * 4 * 8 * 4
    assert state.window.untyped_storage().nbytes() == 3 * 32 * 4


def test_gates_can_be_seen(seed: torch.Generator) -> None:
    layer = GatedLinearAttention(16, 2, causal=True)
    with observe(layer, "gate") as seen:
        layer(torch.randn(1, 3, 16, generator=seed))
    assert seen["gate"][""].shape == (1, 2, 3, 4)


def test_wrong_options_are_named() -> None:
    with pytest.raises(CapabilityError, match="causal only"):
        GatedLinearAttention(8, 2)
    with pytest.raises(InputError, match="chunk_size=12 must be a power of two"):
        GatedLinearAttention(8, 2, causal=True, chunk_size=12)
    with pytest.raises(InputError, match="must be positive"):
        GatedLinearAttention(8, 2, causal=True, expand_key=0.0)


def test_foreign_weights_are_refused() -> None:
    prefix = "attentive_rnn.encoder.0.tmix."
    weights = {name.removeprefix(prefix): tensor for name, tensor in load_case(CASE).weights.items()}
    for wrong in ({}, weights | {"extra": torch.ones(1)}, weights | {"g_norm_swish_gate.weight": torch.ones(3)}):
        with pytest.raises(CheckpointError) as refusal:
            GatedLinearAttention.from_authors(wrong, 2)
        assert "\n" not in str(refusal.value)
