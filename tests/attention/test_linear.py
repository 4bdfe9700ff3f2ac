"""Linear attention against the paper's equation, and that it is linear."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from harken.attention import create_attention, linear
from harken.attention.linear import LinearAttention, _reference, linear_attention
from harken.errors import InputError


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 14),
    chunk_size=st.integers(1, 6),
    causal=st.booleans(),
    padded=st.integers(0, 13),
    wide=st.booleans(),
)
def test_equals_the_equation(time: int, chunk_size: int, causal: bool, padded: int, wide: bool) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, d, generator=generator, dtype=torch.float64) for d in (3, 3, 5 if wide else 3))
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    mixed = linear_attention(q, k, v, causal=causal, mask=mask, chunk_size=chunk_size)
    torch.testing.assert_close(mixed, _reference(q, k, v, causal=causal, mask=mask), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences_go_piece_by_piece(causal: bool, monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    monkeypatch.setattr(linear, "_KERNEL", linear._KERNEL._replace(segment=8))
    q, k, v = (torch.randn(1, 2, 21, 3, generator=seed) for _ in range(3))
    mask = torch.rand(1, 21, generator=seed) > 0.3
    mask[:, 0] = True
    mixed = linear_attention(q, k, v, causal=causal, mask=mask, chunk_size=3)
    torch.testing.assert_close(mixed, _reference(q, k, v, causal=causal, mask=mask))


def test_gradients_are_those_of_the_equation(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 7, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))
    assert torch.autograd.gradcheck(lambda q, k, v: linear_attention(q, k, v, causal=True, chunk_size=3), (q, k, v))


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
    layer = create_attention("linear", dim=32, heads=1, causal=causal, chunk_size=32)
    for time in (256, 1024):
        with _Largest() as largest, torch.no_grad():
            layer(torch.ones(1, time, 32))
        assert (
            largest.elements <= 3 * time * 32 + 2 * 32 * 32
        )  # the stacked q, k, v; neither time² nor time · head_dim²


def test_a_stream_does_not_grow() -> None:
    layer = create_attention("linear", dim=8, heads=2, causal=True)
    _, state = layer.step(torch.ones(1, 300, 8), layer.init_state(1))
    assert state.keys_values.shape == (1, 2, 4, 4)
    assert state.keys_values.untyped_storage().nbytes() == 2 * 4 * 4 * 4  # not a view of all the sums before it


def test_keys_that_vanish_give_zeros_not_infinities() -> None:
    q, v = torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2)
    k = torch.full((1, 1, 4, 2), -200.0).requires_grad_()
    for causal in (False, True):
        mixed = linear_attention(q, k, v, causal=causal, chunk_size=2)
        (gradient,) = torch.autograd.grad(mixed.sum(), k)
        assert mixed.isfinite().all() and gradient.isfinite().all()


def test_half_precision_sums_in_single() -> None:
    """Summed in bfloat16, a thousand ones would stop at 256."""
    v = torch.arange(1000.0).view(1, 1, -1, 1)
    ones = torch.zeros(1, 1, 1000, 1, dtype=torch.bfloat16)
    mixed = linear_attention(ones, ones, v.bfloat16(), causal=True)
    assert mixed[0, 0, -1, 0].item() == pytest.approx(499.5, rel=0.01)


def test_a_chunk_has_a_size() -> None:
    with pytest.raises(InputError, match="chunk_size=0 must be at least 1"):
        LinearAttention(8, 2, causal=True, chunk_size=0)
