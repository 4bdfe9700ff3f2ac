"""Every variant of deconstructed attention against its equation, and through the whole battery."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.attention import create_attention
from harken.attention.constant_maps import FixedQKAttention, StaticQKAttention
from harken.attention.cumulative import NonApproximateAttention, cumulative_attention, position_scores
from harken.attention.deconstructed import DeconstructedAttention, PositionMLP, _reference
from harken.attention.taylor import ApproximateAttention, features, taylor_attention, taylor_features, taylor_weights
from harken.errors import CapabilityError, InputError
from harken.observation import observe
from tests.attention.kit import Check, Subject, battery

VARIANTS = ("standard", "mlp", "approximate", "non-approximate", "rnd-emb-qk", "fixed-seq-qk", "static-emb-qk")


class TurnedApproximate(ApproximateAttention):
    """With everything that models put around it."""

    def __init__(self, dim: int, heads: int, *, chunk_size: int = 4, **options: Any):
        super().__init__(dim, heads, chunk_size=chunk_size, rotary_base=10000.0, qk_norm=True, **options)


class Turned(StaticQKAttention):
    """The same for what has a cache."""

    def __init__(self, dim: int, heads: int, **options: Any):
        super().__init__(dim, heads, rotary_base=10000.0, qk_norm=True, bias=True, **options)


@pytest.mark.parametrize(
    ("check", "subject"),
    [
        parameter
        for form in (TurnedApproximate, NonApproximateAttention, FixedQKAttention, Turned, PositionMLP)
        for parameter in battery(form)
        if pytest.mark.border not in parameter.marks
        and not (form is PositionMLP and parameter.values[0].__name__ == "the_past_does")
    ],
)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_has_its_name_and_as_many_parameters_as_the_others(variant: str) -> None:
    layer = create_attention("deconstructed", dim=24, heads=3, causal=True, variant=variant)
    assert layer.variant == variant
    assert sum(parameter.numel() for parameter in layer.parameters()) == 4 * 24**2
    twin = copy.deepcopy(layer)
    assert type(twin) is type(layer)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 26),
    variant=st.sampled_from(("approximate", "non-approximate")),
    head_dim=st.sampled_from((1, 2, 3)),
    chunk_size=st.integers(2, 6),
    causal=st.booleans(),
    padded=st.integers(0, 25),
)
def test_equals_the_equation(
    time: int, variant: str, head_dim: int, chunk_size: int, causal: bool, padded: int
) -> None:
    """Taylor sums have 4, 7 or 10 features here, so that most lengths go through them."""
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, head_dim, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    options = {"causal": causal, "mask": mask, "chunk_size": chunk_size}
    if variant == "approximate":
        mixed = taylor_attention(q, k, v, **options)
    else:
        mixed = cumulative_attention(position_scores(q, k), v, **options)[0]
    expected = _reference(variant, q, k, v, causal=causal, mask=mask)
    torch.testing.assert_close(mixed, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("head_dim", [1, 2, 5, 8])
def test_taylor_features_multiply_to_the_series(head_dim: int, seed: torch.Generator) -> None:
    q, k = (torch.randn(3, head_dim, generator=seed, dtype=torch.float64) for _ in range(2))
    a = q @ k.T / head_dim**0.5
    torch.testing.assert_close(taylor_features(q) @ taylor_features(k).T, 1 + a + a**2 / 2)


def test_separate_norms_divide_each_order_by_its_own_sum(seed: torch.Generator) -> None:
    q, k, v = (torch.rand(1, 1, 30, 3, generator=seed, dtype=torch.float64) for _ in range(3))
    a = q @ k.transpose(-1, -2) / 3**0.5
    orders = [order.tril() for order in (torch.ones_like(a), a, a**2 / 2)]
    weights = sum(order / order.sum(-1, keepdim=True) for order in orders)
    assert features(3) < 30
    torch.testing.assert_close(taylor_attention(q, k, v, causal=True, norm="separate", chunk_size=4), weights @ v)
    torch.testing.assert_close(taylor_weights(q, k, causal=True, norm="separate"), weights)


def test_scores_in_the_thousands_are_survived() -> None:
    scores = torch.tensor([[[-5000.0, 3000.0, 2999.0, -4000.0, 8000.0, 0.0, 1.0]]], requires_grad=True)
    v = torch.arange(7.0).view(1, 1, 7, 1)
    mixed, _ = cumulative_attention(scores, v, causal=True, chunk_size=2)
    torch.testing.assert_close(
        mixed.flatten(), torch.tensor([0.0, 1.0, 1.2689, 1.2689, 4.0, 4.0, 4.0]), atol=1e-4, rtol=0
    )
    mixed.sum().backward()
    assert scores.grad is not None and scores.grad.isfinite().all()


def test_the_mlp_mixes_no_positions(seed: torch.Generator) -> None:
    layer = create_attention("deconstructed", dim=8, heads=2, variant="mlp")
    x = torch.randn(1, 5, 8, generator=seed)
    torch.testing.assert_close(layer(x)[:, 2:3], layer(x[:, 2:3]))
    with pytest.raises(CapabilityError, match="no attention matrix"):
        layer.weights(x)


def test_maps_of_a_constant_sequence_do_not_know_the_input(seed: torch.Generator) -> None:
    x, other, source = torch.randn(2, 6, 8, generator=seed), torch.randn(2, 6, 8), torch.randn(9, 8, generator=seed)
    for variant in ("rnd-emb-qk", "fixed-seq-qk"):
        layer = create_attention("deconstructed", dim=8, heads=2, causal=True, variant=variant)
        assert torch.equal(layer.weights(x, source=source), layer.weights(other, source=source))
        torch.testing.assert_close(
            layer.weights(x, source=source)[:, :, :4, :4], layer.weights(x[:, :4], source=source)
        )
    with observe(layer, "weights") as seen:
        layer(x, source=source)
    torch.testing.assert_close(seen["weights"][""], layer.weights(x, source=source))
    with pytest.raises(InputError, match="pass its rows as source="):
        layer(x)


def test_positions_of_a_constant_sequence_are_those_of_real_tokens(seed: torch.Generator) -> None:
    layer = create_attention("deconstructed", dim=8, heads=2, causal=True, variant="rnd-emb-qk", rotary_base=100.0)
    x = torch.randn(1, 6, 8, generator=seed)
    left_padded = torch.cat((torch.ones(1, 3, 8), x), 1)
    mask = torch.arange(9)[None] >= 3
    torch.testing.assert_close(layer(left_padded, mask=mask)[:, 3:], layer(x))


def test_static_maps_depend_on_the_embeddings_alone_and_stream(seed: torch.Generator) -> None:
    layer = create_attention("deconstructed", dim=8, heads=2, causal=True, variant="static-emb-qk", rotary_base=100.0)
    x, other, source = (torch.randn(2, 6, 8, generator=seed) for _ in range(3))
    assert torch.equal(layer.weights(x, source=source), layer.weights(other, source=source))
    y, state = layer.step(x[:, :4], layer.init_state(2), source=source[:, :4])
    last, _ = layer.step(x[:, 4:], state, source=source[:, 4:])
    torch.testing.assert_close(torch.cat((y, last), 1), layer(x, source=source))
    with pytest.raises(InputError, match=r"expected source of shape \(2, 6, 8\)"):
        layer(x, source=source[:, :3])


def test_a_constant_sequence_streams_with_its_new_rows(seed: torch.Generator) -> None:
    layer = create_attention("deconstructed", dim=8, heads=2, causal=True, variant="fixed-seq-qk")
    x, source = torch.randn(2, 6, 8, generator=seed), torch.randn(6, 8, generator=seed)
    y, state = layer.step(x[:, :4], layer.init_state(2), source=source[:4])
    last, _ = layer.step(x[:, 4:], state, source=source[4:])
    torch.testing.assert_close(torch.cat((y, last), 1), layer(x, source=source))


def test_the_noise_is_drawn_from_its_seed_and_has_an_end() -> None:
    layers = [DeconstructedAttention(8, 2, variant="rnd-emb-qk", max_length=4, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(layers[0].stream, layers[1].stream) and not torch.equal(layers[0].stream, layers[2].stream)
    with pytest.raises(InputError, match="5 positions are more than max_length=4"):
        layers[0](torch.ones(1, 5, 8))


@pytest.mark.parametrize("variant", ["approximate", "non-approximate"])
def test_no_tensor_grows_faster_than_the_sequence(variant: str) -> None:
    from tests.attention.test_linear import _Largest

    layer = create_attention("deconstructed", dim=8, heads=1, causal=True, variant=variant, chunk_size=16)
    for time in (256, 512):
        with _Largest() as largest, torch.no_grad():
            layer(torch.ones(1, time, 8))
        assert largest.elements <= 24 * time + 1024


@pytest.mark.border
def test_wrong_options_get_a_line() -> None:
    with pytest.raises(InputError, match="no variant 'exact' of attention: one of standard, mlp"):
        DeconstructedAttention(8, 2, variant="exact")
    with pytest.raises(TypeError, match="chunk_size"):
        DeconstructedAttention(8, 2, variant="standard", chunk_size=3)
    with pytest.raises(InputError, match="must be even"):
        DeconstructedAttention(9, 3, rotary_base=10000.0)
    with pytest.raises(InputError, match="joint or separate"):
        DeconstructedAttention(8, 2, variant="approximate", taylor_norm="none")
    with pytest.raises(InputError, match="expected weights wq, wk, wv, wo"):
        DeconstructedAttention.from_authors({"wq": torch.ones(8, 8)}, heads=2)
