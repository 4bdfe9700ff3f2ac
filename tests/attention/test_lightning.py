"""Lightning attention: the authors' tensors, what its options mean, and that it is linear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harken.attention import lightning
from harken.attention.lightning import LightningAttention, head_slopes, lightning_attention
from harken.errors import CheckpointError, InputError
from harken.observation import observe
from harken.papers.parity import check_parity, load_case

CASE = Path(__file__).parents[1] / "parity/lightning-attention-2"


def test_the_authors_tensors() -> None:
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    inputs = {"decay.q", "decay.k", "decay.v", "decay.do", "decay.slopes", "module.x", "srms.x"}
    assert set(report.not_compared) <= inputs | {"nodecay.q", "nodecay.k", "nodecay.v", "nodecay.do"}


def test_late_layers_look_further_back() -> None:
    first, last = (LightningAttention(8, 4, causal=True, layer=layer, layers=12) for layer in (0, 11))
    torch.testing.assert_close(first.slopes, head_slopes(4) * (1 + 1e-5))
    torch.testing.assert_close(last.slopes, head_slopes(4) * 1e-5)
    assert LightningAttention(8, 4, causal=True, decay=False).slopes.tolist() == [0.0] * 4


def test_slopes_survive_half_precision() -> None:
    layer = LightningAttention(48, 6, causal=True, layer=1, layers=4)
    before = layer.slopes
    assert torch.equal(layer.bfloat16().slopes, before)
    assert before.dtype == torch.float32


def test_slopes_without_an_order_are_refused() -> None:
    x = torch.ones(1, 2, 3, 1)
    with pytest.raises(InputError, match="causal=True"):
        lightning_attention(x, x, x, head_slopes(2))


def test_relative_positions_depend_on_distance_alone(seed: torch.Generator) -> None:
    layer = LightningAttention(8, 2, causal=True, lrpe=True, decay=False)
    x = torch.randn(1, 4, 8, generator=seed)
    scores = layer.weights(torch.cat((x, x), 1))
    torch.testing.assert_close(scores[..., 4:, 4:], scores[..., :4, :4], atol=1e-5, rtol=1e-5)
    assert (scores[..., 4, 0] - scores[..., 0, 0]).abs().max() > 1e-4  # the same content, further away


def test_without_angles_relative_positions_do_nothing(seed: torch.Generator) -> None:
    layer = LightningAttention(8, 2, causal=True, lrpe=True)
    plain = LightningAttention(8, 2, causal=True)
    torch.nn.init.zeros_(layer.theta)
    plain.load_state_dict({name: tensor for name, tensor in layer.state_dict().items() if name != "theta"})
    x = torch.randn(1, 9, 8, generator=seed)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("lrpe", [False, True])
@pytest.mark.parametrize("gate", ["linear", "lowrank", "none"])
def test_every_form_streams_and_costs_what_it_says(lrpe: bool, gate: str, seed: torch.Generator) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    layer = LightningAttention(
        16, 2, causal=True, bias=True, lrpe=lrpe, gate=gate, norm="layer", value_activation=True, chunk_size=4
    )
    x = torch.randn(2, 11, 16, generator=seed)
    with FlopCounterMode(display=False) as counter:
        y = layer(x)
    assert layer.cost(2, 11).flops == pytest.approx(counter.get_total_flops(), rel=0.01)
    first, state = layer.step(x[:, :6], layer.init_state(2))
    parts = [first]
    for position in range(6, 11):
        y_t, state = layer.step(x[:, position : position + 1], state)
        parts.append(y_t)
    torch.testing.assert_close(torch.cat(parts, 1), y, atol=1e-5, rtol=1e-5)


def test_padding_on_the_left_changes_nothing(seed: torch.Generator) -> None:
    layer = LightningAttention(8, 2, causal=True, chunk_size=4)
    x = torch.randn(1, 7, 8, generator=seed)
    padded = torch.cat((torch.randn(1, 6, 8, generator=seed), x), 1)
    y = layer(padded, mask=torch.arange(13)[None] >= 6)
    torch.testing.assert_close(y[:, 6:], layer(x), atol=1e-5, rtol=1e-5)


def test_the_gate_can_be_seen(seed: torch.Generator) -> None:
    layer = LightningAttention(8, 2, gate="lowrank")
    with observe(layer, "gate") as seen:
        layer(torch.randn(1, 3, 8, generator=seed))
    assert seen["gate"][""].shape == (1, 3, 8)
    assert 0 < seen["gate"][""].min() < seen["gate"][""].max() < 1


def test_long_sequences_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    layer = LightningAttention(8, 2, causal=True, lrpe=True, chunk_size=4)
    x, mask = torch.randn(2, 21, 8, generator=seed), torch.rand(2, 21, generator=seed) > 0.3
    whole, unmasked = layer(x, mask=mask), layer(x)
    monkeypatch.setattr(lightning, "PIECE", 8)
    torch.testing.assert_close(layer(x, mask=mask)[mask], whole[mask], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.step(x, layer.init_state(2))[0], unmasked, atol=1e-5, rtol=1e-5)


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return out


@pytest.mark.parametrize("causal", [False, True])
def test_no_tensor_grows_faster_than_the_sequence(causal: bool) -> None:
    layer = LightningAttention(32, 1, causal=causal, chunk_size=32)
    for time in (256, 1024):
        with _Largest() as largest, torch.no_grad():
            layer(torch.ones(1, time, 32))
        assert largest.elements <= 3 * time * 32 + 2 * 32 * 32


def test_a_stream_does_not_grow() -> None:
    layer = LightningAttention(8, 2, causal=True)
    _, state = layer.step(torch.ones(1, 300, 8), layer.init_state(1))
    assert state.keys_values.shape == (1, 2, 4, 4)
    assert state.keys_values.untyped_storage().nbytes() == 2 * 4 * 4 * 4  # not a view of all the sums before it
    assert state.position.tolist() == [300]


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_size": 0}, "chunk_size=0"),
        ({"layer": 3, "layers": 3}, "layer=3 of layers=3"),
        ({"gate": "sigmoid"}, "gate must be one of linear, lowrank, none"),
        ({"norm": "batch"}, "norm must be"),
    ],
)
def test_wrong_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LightningAttention(8, 2, causal=True, **options)


def test_foreign_weights_are_refused() -> None:
    weights = {name.removeprefix("module."): tensor for name, tensor in load_case(CASE).weights.items()}
    for wrong in ({}, weights | {"extra": torch.ones(1)}, {**weights, "norm.weight": torch.ones(3)}):
        with pytest.raises(CheckpointError) as refusal:
            LightningAttention.from_authors(wrong, 3)
        assert "\n" not in str(refusal.value)
