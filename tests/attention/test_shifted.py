"""Shifted groups against their definition; what they leak and what they do not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import create_attention
from harken.attention.shifted import ShiftedAttention, SinkShiftedAttention, _reference, shifted_attention
from harken.attention.span import span_attention
from harken.errors import CapabilityError, InputError


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 29),
    group_size=st.sampled_from((2, 4, 6)),
    shifted_heads=st.integers(0, 2),
    wrap_or_sinks=st.sampled_from((0, 0, 1, 3, "wrap")),
    causal=st.booleans(),
    padded=st.sampled_from((None, 4)),
)
def test_equals_the_definition(
    time: int, group_size: int, shifted_heads: int, wrap_or_sinks: int | str, causal: bool, padded: int | None
) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = None if padded is None else torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    wrap, sinks = (True, 0) if wrap_or_sinks == "wrap" else (False, int(wrap_or_sinks))
    options = {"group_size": group_size, "shifted_heads": shifted_heads, "wrap": wrap, "sinks": sinks}
    mixed = shifted_attention(q, k, v, causal=causal, mask=mask, **options)
    expected = _reference(q, k, v, causal=causal, mask=mask, **options)
    real = torch.ones(2, 2, time, dtype=torch.bool) if mask is None else mask[:, None].expand(2, 2, -1)
    torch.testing.assert_close(mixed[real], expected[real], atol=1e-10, rtol=1e-10)


def _sees(layer: ShiftedAttention, time: int) -> torch.Tensor:
    """Which outputs change with which inputs, by gradient."""
    x = torch.randn(1, time, layer.dim).requires_grad_()
    y = layer(x)[0].abs().sum(-1)
    return torch.stack([torch.autograd.grad(row, x, retain_graph=True)[0][0].abs().sum(-1) > 0 for row in y])


def test_only_what_wraps_leaks() -> None:
    build = {"dim": 8, "heads": 2, "causal": True, "group_size": 4}
    assert not _sees(create_attention("shifted", **build), 12).triu(1).any()
    assert not _sees(create_attention("sink-shifted", **build), 12).triu(1).any()
    assert _sees(create_attention("shifted", wrap=True, **build), 12)[0, 10]
    assert _sees(create_attention("sink-shifted", sink_bidirectional=True, **build), 12)[0, 11]


def test_without_a_shift_groups_are_blocks(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 11, 4, generator=seed) for _ in range(3))
    mixed = shifted_attention(q, k, v, group_size=4, shifted_heads=0, causal=True)
    torch.testing.assert_close(mixed, span_attention(q, k, v, span="block", span_size=4, causal=True))


def test_one_group_is_full_attention(seed: torch.Generator) -> None:
    layer, x = SinkShiftedAttention(8, 2, causal=True, group_size=16, shift_fraction=0.0), torch.randn(1, 9, 8)
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))


def test_every_position_sees_the_sinks() -> None:
    seen = _sees(create_attention("sink-shifted", dim=8, heads=4, causal=True, group_size=4, sinks=2), 20)
    assert seen[2:, :2].all()
    assert not seen[19, 4:12].any()  # its own group of 4, or 4 from the shifted head's border on


def test_a_quarter_of_the_heads_is_shifted() -> None:
    weights = create_attention("sink-shifted", dim=8, heads=4, causal=True, group_size=4).weights(torch.randn(1, 16, 8))
    crosses = weights[0, :, 12, 11] > 0
    assert crosses.tolist() == [False, False, False, True]


def test_evaluation_is_full_attention_with_the_same_weights(seed: torch.Generator) -> None:
    layer, plain = (create_attention(name, dim=8, heads=2, causal=True) for name in ("shifted", "softmax"))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(1, 16, 8, generator=seed)
    torch.testing.assert_close(layer.eval()(x), plain(x))
    assert not torch.allclose(layer.train()(x), plain(x))


@pytest.mark.parametrize("name", ["shifted", "sink-shifted"])
@pytest.mark.parametrize("causal", [False, True])
def test_matrix_and_cost_in_groups(name: str, causal: bool) -> None:
    layer = create_attention(name, dim=16, heads=4, causal=causal, grouped="always")
    for time in (3, 24, 50):
        x = torch.randn(1, time, 16)
        q, k, v = layer.project(x)
        torch.testing.assert_close(layer.weights(x) @ v, layer.mix(q, k, v, None), atol=1e-5, rtol=1e-5)
        with (
            FlopCounterMode(display=False) as counter,
            sdpa_kernel(SDPBackend.MATH),
        ):
            layer(x)
        assert layer.cost(1, time).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


@pytest.mark.border
def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="group_size=5 must be even"):
        ShiftedAttention(8, 2, group_size=5)
    with pytest.raises(InputError, match=r"shift_fraction=1.5 must lie in \[0, 1\]"):
        ShiftedAttention(8, 2, shift_fraction=1.5)
    with pytest.raises(TypeError, match="wrap"):
        SinkShiftedAttention(8, 2, wrap=True)
    layer = ShiftedAttention(8, 2, causal=True, grouped="always")
    with pytest.raises(CapabilityError, match="one of full attention"):
        layer.init_state(1)
