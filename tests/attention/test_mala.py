"""MALA against its equation: magnitude sharpens, rows sum to 1, the causal form is the same sums."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import mala
from harken.attention._local_gated import LocalGatedSoftmax, turned
from harken.attention.mala import MalaAttention, _reference, mala_attention, mala_weights
from harken.errors import CapabilityError, CheckpointError, InputError

VISION = {"axes": 2, "rotary": True, "local_kernel": 5, "gate": True}
STREAM = {"rotary": True, "local_kernel": 5, "gate": True, "chunk_size": 4}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 12),
    chunk_size=st.integers(1, 6),
    causal=st.booleans(),
    padded=st.integers(0, 11),
    rotary=st.booleans(),
)
def test_equals_the_equation(time: int, chunk_size: int, causal: bool, padded: int, rotary: bool) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, d, generator=generator, dtype=torch.float64) for d in (4, 4, 3))
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    angles = torch.rand(time, 2, generator=generator, dtype=torch.float64) if rotary else None
    mixed = mala_attention(q, k, v, causal=causal, mask=mask, angles=angles, chunk_size=chunk_size)
    expected = _reference(q, k, v, causal=causal, mask=mask, angles=angles)
    torch.testing.assert_close(mixed, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences_go_piece_by_piece(causal: bool, monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    monkeypatch.setattr(mala, "SEGMENT", 8)
    q, k, v = (torch.randn(1, 2, 21, 4, generator=seed) for _ in range(3))
    mask = torch.rand(1, 21, generator=seed) > 0.3
    mask[:, 0] = True
    angles = torch.rand(21, 2, generator=seed)
    mixed = mala_attention(q, k, v, causal=causal, mask=mask, angles=angles, chunk_size=3)
    torch.testing.assert_close(mixed, _reference(q, k, v, causal=causal, mask=mask, angles=angles))


def test_gradients_are_those_of_the_equation(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 5, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: mala_attention(q, k, v, causal=True, chunk_size=3), (q, k, v))


def test_longer_queries_attend_more_sharply(seed: torch.Generator) -> None:
    """Where the size of ``f(q)`` cancels from plain linear attention."""
    q, k = (torch.randn(1, 1, 16, 8, generator=seed) for _ in range(2))
    short, long = (mala_weights(size * q, k, feature="relu")[0] for size in (1, 4))
    assert (long.amax(-1) > 1.2 * short.amax(-1)).all()


def test_the_last_causal_row_is_the_bidirectional_one(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 9, 4, generator=seed) for _ in range(3))
    causal = mala_attention(q, k, v, causal=True, chunk_size=4)
    torch.testing.assert_close(causal[:, :, -1], mala_attention(q, k, v)[:, :, -1])


@pytest.mark.parametrize("feature", ["elu", "relu", "exp"])
def test_extreme_keys_stay_finite(feature: str) -> None:
    for size in (-200.0, 200.0):
        k = torch.full((1, 1, 6, 4), size).requires_grad_()
        q, v = torch.ones(1, 1, 6, 4), torch.ones(1, 1, 6, 4)
        for causal in (False, True):
            mixed = mala_attention(q, k, v, causal=causal, feature=feature, chunk_size=4)  # type: ignore[arg-type]
            (gradient,) = torch.autograd.grad(mixed.sum(), k)
            assert mixed.isfinite().all() and gradient.isfinite().all()


def test_rows_sum_to_one_unless_positions_turn_the_keys_but_not_the_normaliser(seed: torch.Generator) -> None:
    q, k = (torch.randn(1, 1, 9, 4, generator=seed) for _ in range(2))
    angles = torch.arange(9.0)[:, None] * torch.tensor([1.0, 0.1])
    for options, whole in (({}, True), ({"angles": angles}, False), ({"angles": angles, "angles_in_norm": True}, True)):
        rows = mala_weights(q, k, **options)[0].sum(-1)
        assert bool((rows - 1).abs().max() < 1e-3) is whole


def test_turning_keeps_lengths_and_depends_on_distances_only(seed: torch.Generator) -> None:
    x, y = (torch.randn(6, generator=seed).expand(8, 6) for _ in range(2))
    angles = torch.arange(8.0)[:, None] * torch.tensor([1.0, 0.3, 0.01])
    a, b = turned(x, angles), turned(y, angles)
    torch.testing.assert_close(a.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close((a[2] * b[5]).sum(), (a[4] * b[7]).sum())


def test_a_stream_with_all_its_surroundings_equals_the_whole(seed: torch.Generator) -> None:
    layer = MalaAttention(16, 2, causal=True, **STREAM).eval()
    x, state, parts = torch.randn(2, 19, 16, generator=seed), layer.init_state(2), []
    for part in x.split((1, 1, 7, 1, 9), 1):
        y, state = layer.step(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x), atol=1e-5, rtol=1e-5)
    size = sum(part.numel() * part.element_size() for part in state)
    assert size == layer.cost(2, 19).state


def test_padding_is_nothing_to_an_image_and_its_surroundings(seed: torch.Generator) -> None:
    layer, x = MalaAttention(16, 2, **VISION).eval(), torch.randn(1, 12, 16, generator=seed)
    mask = torch.ones(1, 12, dtype=torch.bool)
    mask[:, [3, 7, 11]] = False  # the last column
    noisy = torch.where(mask[..., None], x, 50.0)
    left = layer(noisy, mask=mask, grid=(3, 4))[mask]
    narrow = layer(x[mask].view(1, 9, 16), grid=(3, 3))[0]
    torch.testing.assert_close(left, narrow, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("options", [VISION, STREAM | {"causal": True}, STREAM], ids=["image", "stream", "sequence"])
def test_the_cost_of_the_surroundings_is_counted(options: dict) -> None:
    layer, x = MalaAttention(16, 2, **options).eval(), torch.zeros(2, 24, 16)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x, grid=(4, 6))
    assert layer.cost(2, 24).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_its_softmax_sibling_answers_to_positions(seed: torch.Generator) -> None:
    layer, x = LocalGatedSoftmax(16, 2).eval(), torch.randn(1, 12, 16, generator=seed)
    assert (layer(x, grid=(3, 4)) - layer(x, grid=(4, 3))).abs().max() > 1e-3
    weights = layer.weights(x, grid=(3, 4))
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 12))


@pytest.mark.border
def test_mistakes_get_a_line_each() -> None:
    with pytest.raises(CapabilityError, match="no causal order"):
        MalaAttention(16, 2, causal=True, axes=2)
    with pytest.raises(InputError, match="divisible by 4"):
        MalaAttention(12, 2, axes=2, rotary=True)
    with pytest.raises(InputError, match="must be odd"):
        MalaAttention(16, 2, local_kernel=4)
    with pytest.raises(InputError, match="feature='tanh'"):
        MalaAttention(16, 2, feature="tanh")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="needs grid="):
        MalaAttention(16, 2, **VISION)(torch.zeros(1, 6, 16), grid=(2, 2))
    with pytest.raises(CapabilityError, match="share no positions"):
        MalaAttention(16, 2, rotary=True)(torch.zeros(1, 6, 16), torch.zeros(1, 6, 16))
    with pytest.raises(CheckpointError, match="no parameter"):
        MalaAttention.from_authors({}, 2)
