"""Sums that forget: the chunkwise forms against the recurrence, at any rate of forgetting, and the kernels' door."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harken.attention import _decayed
from harken.attention._decayed import decayed_attention, decayed_step, gated_attention, gated_weights
from harken.attention.gated_linear import _reference as gated_reference
from harken.attention.lightning import _reference as decayed_reference


def tensors(
    time: int, *, batch: int = 2, heads: int = 2, keys: int = 3, values: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, ...]:
    """Queries, keys, values, log decays, slopes and a state."""
    generator = torch.Generator().manual_seed(time)
    q, k, v, gates = (
        torch.randn(batch, heads, time, d, generator=generator, dtype=dtype) for d in (keys, keys, values, keys)
    )
    slopes = torch.rand(heads, generator=generator, dtype=dtype)
    state = torch.randn(batch, heads, keys, values, generator=generator, dtype=dtype)
    return q, k, v, 3 * torch.nn.functional.logsigmoid(3 * gates), slopes, state


@settings(max_examples=12, deadline=None, derandomize=True)
@given(time=st.integers(1, 13), power=st.integers(0, 3), started=st.booleans())
def test_chunks_of_any_size_give_what_the_recurrence_gives(time: int, power: int, started: bool) -> None:
    q, k, v, log_decay, slopes, state = tensors(time, batch=1)
    start = state if started else None
    for ours, reference in (
        (decayed_attention(q, k, v, slopes, start, chunk_size=power + 1), decayed_reference(q, k, v, slopes, start)),
        (gated_attention(q, k, v, log_decay, start, chunk_size=2**power), gated_reference(q, k, v, log_decay, start)),
    ):
        for mine, theirs in zip(ours, reference, strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


def test_long_sequences_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v, log_decay, slopes, state = tensors(29)
    whole = decayed_attention(q, k, v, slopes, state), gated_attention(q, k, v, log_decay, state)
    monkeypatch.setattr(_decayed, "_SEGMENT", 8)
    parts = (
        decayed_attention(q, k, v, slopes, state, chunk_size=4),
        gated_attention(q, k, v, log_decay, state, chunk_size=4),
    )
    for ours, theirs in zip(parts, whole, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_gate_like_a_constant_decay_is_one() -> None:
    q, k, v, _, slopes, state = tensors(19)
    log_decay = -slopes[None, :, None, None].expand_as(k)
    torch.testing.assert_close(
        gated_attention(q, k, v, log_decay, state, chunk_size=8), decayed_attention(q, k, v, slopes, state)
    )


def test_zero_keys_before_a_sequence_shift_it_and_no_more() -> None:
    q, k, v, _, slopes, _ = tensors(13)
    padded = [torch.nn.functional.pad(part, (0, 0, 5, 0)) for part in (q, k, v)]
    ours = decayed_attention(*padded, slopes, chunk_size=4)[0][:, :, 5:]
    torch.testing.assert_close(ours, decayed_attention(q, k, v, slopes, chunk_size=4)[0])


@pytest.mark.parametrize("rate", [0.0, 1e-6, 1.0, 30.0, 1e4])
def test_any_rate_of_forgetting_is_finite_and_right(rate: float) -> None:
    """Also where ``exp(rate * chunk)`` overflows, and where a channel that has lost everything remembers again."""
    q, k, v, *_ = (part.float() for part in tensors(32))
    slopes = torch.full((2,), rate)
    log_decay = torch.full_like(k, -rate)
    log_decay[:, :, 9:] = -1e-3
    inputs = [part.requires_grad_() for part in (q, k, v, log_decay)]
    for (mixed, state), (right, final) in (
        (decayed_attention(q, k, v, slopes, chunk_size=16), decayed_reference(q, k, v, slopes)),
        (gated_attention(q, k, v, log_decay, chunk_size=16), gated_reference(q, k, v, log_decay)),
    ):
        torch.testing.assert_close(mixed, right, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(state, final, atol=1e-5, rtol=1e-5)
        gradients = torch.autograd.grad(mixed.square().sum() + state.sum(), inputs, allow_unused=True)
        assert all(gradient is None or gradient.isfinite().all() for gradient in gradients)


def test_gradients_are_those_of_the_recurrence() -> None:
    q, k, v, log_decay, slopes, state = tensors(5, batch=1, heads=1, keys=2, values=2)
    inputs = [part.requires_grad_() for part in (q, k, v, log_decay, slopes, state)]

    def both(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, slopes: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        return (
            *decayed_attention(q, k, v, slopes, state, chunk_size=2),
            *gated_attention(q, k, v, log_decay, state, chunk_size=2),
        )

    assert torch.autograd.gradcheck(both, inputs)


def test_the_matrix_of_gates_is_the_product_of_decays_between() -> None:
    q, k, _, log_decay, *_ = tensors(6)
    weights = gated_weights(q, k, log_decay)
    for t, s in ((0, 0), (3, 3), (5, 0), (4, 2)):
        between = log_decay[:, :, s + 1 : t + 1].sum(2).exp()
        torch.testing.assert_close(weights[:, :, t, s], (q[:, :, t] * between * k[:, :, s]).sum(-1))
    assert weights.triu(1).abs().max() == 0


def test_sums_stay_in_single_precision_under_autocast() -> None:
    """Summed in bfloat16, a thousand ones would stop at 256."""
    ones = torch.ones(1, 1, 1000, 1)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, state = decayed_attention(ones, ones, ones, torch.zeros(1))
        assert mixed[0, 0, -1, 0] == state.item() == 1000
        mixed, state = decayed_step(ones[:, :, :1], ones[:, :, :1], ones[:, :, :1], torch.ones(1, 1, 1, 1), state)
        assert mixed.item() == state.item() == 1001


class _OnCuda(Tensor):
    """A tensor on the CPU that says otherwise."""

    is_cuda = True


def _as_there(*parts: Tensor) -> list[Tensor]:
    return [part.as_subclass(_OnCuda) for part in parts]


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """flash-linear-attention's interface: time before heads, queries scaled unless told, log decays."""
    called: list[str] = []

    def chunk_simple_gla(q, k, v, g_gamma=None, scale=None, initial_state=None, output_final_state=False):  # type: ignore[no-untyped-def]
        assert scale == 1.0 and output_final_state
        called.append("chunk_simple_gla")
        q, k, v = (part.as_subclass(Tensor).transpose(1, 2) for part in (q, k, v))
        mixed, state = decayed_attention(q, k, v, -g_gamma.as_subclass(Tensor), initial_state)
        return mixed.transpose(1, 2), state

    def chunk_gla(q, k, v, g, scale=None, initial_state=None, output_final_state=False):  # type: ignore[no-untyped-def]
        assert scale == 1.0 and output_final_state
        called.append("chunk_gla")
        q, k, v, g = (part.as_subclass(Tensor).transpose(1, 2) for part in (q, k, v, g))
        mixed, state = gated_attention(q, k, v, g, initial_state)
        return mixed.transpose(1, 2), state

    for name, kernel in (("simple_gla", chunk_simple_gla), ("gla", chunk_gla)):
        module = ModuleType(f"fla.ops.{name}")
        setattr(module, kernel.__name__, kernel)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    _decayed._kernel.cache_clear()
    yield called
    _decayed._kernel.cache_clear()


def test_on_cuda_the_kernels_do_it(kernels: list[str]) -> None:
    q, k, v, log_decay, slopes, state = (part.float() for part in tensors(9))
    ours = decayed_attention(*_as_there(q, k, v, slopes), state)
    torch.testing.assert_close(ours, decayed_attention(q, k, v, slopes, state))
    ours = gated_attention(*_as_there(q, k, v, log_decay), state)
    torch.testing.assert_close(ours, gated_attention(q, k, v, log_decay, state))
    assert kernels == ["chunk_simple_gla", "chunk_gla"]


def test_without_the_kernels_plain_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fla", None)
    _decayed._kernel.cache_clear()
    q, k, v, _, slopes, _ = (part.float() for part in tensors(9))
    mixed, _ = decayed_attention(*_as_there(q, k, v, slopes))
    torch.testing.assert_close(mixed.as_subclass(Tensor), decayed_attention(q, k, v, slopes)[0])
    _decayed._kernel.cache_clear()
