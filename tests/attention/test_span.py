"""Spans against their definition, and that short ones are linear."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from harken.attention import _local, create_attention
from harken.attention._local import Kind
from harken.attention.cache import HeavyHitters
from harken.attention.span import _SLACK, SpanAttention, _reference, span_attention
from harken.errors import InputError


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that short inputs take every path: single blocks, folded ones, in several segments."""
    monkeypatch.setattr(_local, "_SMALLEST_BLOCK", 4)
    monkeypatch.setattr(_local, "_LARGEST_MASK", 600)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    span=st.sampled_from(("full", "block", "previous", "window")),
    size=st.integers(1, 7),
    sinks=st.sampled_from((0, 0, 1, 3)),
    time=st.integers(1, 33),
    causal=st.booleans(),
    padded=st.sampled_from((None, 0, 5)),
    kv_heads=st.sampled_from((1, 2)),
)
def _equals(
    small_blocks: None, span: Kind, size: int, sinks: int, time: int, causal: bool, padded: int | None, kv_heads: int
) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, h, time, 3, generator=generator, dtype=torch.float64) for h in (2, kv_heads, kv_heads))
    mask = None if padded is None else torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    mixed = span_attention(q, k, v, span=span, span_size=size, sinks=sinks, causal=causal, mask=mask)
    k, v = (part.expand(-1, 2, -1, -1) for part in (k, v))
    expected = _reference(q, k, v, span=span, size=size, sinks=sinks, causal=causal, mask=mask)
    real = torch.ones(2, 2, time, dtype=torch.bool) if mask is None else mask[:, None].expand(2, 2, -1)
    torch.testing.assert_close(mixed[real], expected[real], atol=1e-10, rtol=1e-10)


def test_equals_the_definition(small_blocks: None) -> None:
    _equals(small_blocks)


@pytest.mark.parametrize(("span", "size"), [("block", 9), ("previous", 9), ("window", 8)])
def test_a_span_that_covers_all_is_full(span: Kind, size: int, seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 9, 4, generator=seed) for _ in range(3))
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(span_attention(q, k, v, span=span, span_size=size, causal=True), whole)


def test_blocks_do_not_see_each_other(seed: torch.Generator) -> None:
    layer, x = create_attention("span", dim=8, heads=2, causal=True, span_size=4), torch.randn(1, 16, 8, generator=seed)
    other = x.clone()
    other[:, :8] = 0
    torch.testing.assert_close(layer(other)[:, 8:], layer(x)[:, 8:])


def test_one_full_layer_below_reaches_everything(seed: torch.Generator) -> None:
    def reach(*spans: Kind) -> int:
        x = torch.randn(1, 24, 8, generator=seed).requires_grad_()
        y = x
        for span in spans:
            y = y + create_attention("span", dim=8, heads=2, causal=True, span=span, span_size=4)(y)
        (gradient,) = torch.autograd.grad(y[0, -1].sum(), x)
        return int(gradient[0].abs().sum(-1).nonzero()[0])

    assert reach("block", "block") == 20
    assert reach("previous", "previous") == 12
    assert reach("window", "window") == 23 - 2 * 4
    assert reach("full", "block", "block") == 0


@pytest.mark.parametrize("span", ["block", "previous", "window"])
@pytest.mark.parametrize("sinks", [0, 3])
def test_a_stream_stays_bounded_and_exact(span: Kind, sinks: int, seed: torch.Generator, small_blocks: None) -> None:
    layer = SpanAttention(8, 2, causal=True, span=span, span_size=4, sinks=sinks, rotary_base=100.0).eval()
    x, mask = torch.randn(2, 60, 8, generator=seed), torch.rand(2, 60, generator=seed) > 0.3
    state, parts, at = layer.init_state(2), [], 0
    with torch.no_grad():
        for size in (1, 7, 1, 1, 1, 19, 2, 1, 1, 1, 20, 1, 4):
            here = slice(at, at + size)
            y, state = layer.step(x[:, here], state, mask=mask[:, here])
            parts.append(y)
            at += size
            assert state.keys.shape[2] < sinks + (4 + _SLACK if sinks and span == "window" else 8 + sinks)
            assert state.keys.untyped_storage().nbytes() <= 2 * 8 * 4 * max(4 * state.keys.shape[2], 64)
        whole = layer(x, mask=mask)
    torch.testing.assert_close(torch.cat(parts, 1)[mask], whole[mask], atol=1e-5, rtol=1e-5)


class _Largest(TorchDispatchMode):
    """Remembers the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for part in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(part, torch.Tensor):
                self.elements = max(self.elements, part.numel())
        return out


@pytest.mark.parametrize("span", ["block", "previous", "window"])
@pytest.mark.parametrize("causal", [False, True])
def test_no_tensor_grows_faster_than_the_sequence(span: Kind, causal: bool) -> None:
    layer = create_attention("span", dim=16, heads=1, causal=causal, span=span, span_size=32)
    for time in (256, 1024):
        with _Largest() as largest, torch.no_grad():
            layer(torch.ones(1, time, 16))
        assert largest.elements <= 3 * time * 16 + 64 * 192  # the stacked q, k, v, and a block's mask


def test_gradients_are_those_of_the_definition(seed: torch.Generator, small_blocks: None) -> None:
    q, k, v = (torch.randn(1, 1, 14, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))

    def mixed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return span_attention(q, k, v, span="window", span_size=3, sinks=1, causal=True)

    assert torch.autograd.gradcheck(mixed, (q, k, v))


@pytest.mark.border
def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="span='diagonal' is unknown"):
        SpanAttention(8, 2, span="diagonal")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="size of at least 1 position, got 0"):
        SpanAttention(8, 2, span_size=0)
    with pytest.raises(InputError, match="bounds its cache"):
        SpanAttention(8, 2, causal=True, cache=HeavyHitters(4, 4))
