"""The scan is the recurrence, whole or in parts, and so are its gradients."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.layers import selective_scan as module
from harken.layers.selective_scan import _reference, selective_scan


def inputs(rows=3, length=37, channels=5, states=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=dtype)

    delta = torch.nn.functional.softplus(normal(rows, length, channels))
    return (
        normal(rows, length, channels),
        delta,
        -normal(channels, states).exp(),
        normal(rows, length, states),
        normal(rows, length, states),
        normal(channels),
    )


@pytest.mark.parametrize("length", [1, 15, 16, 17, 37])
def test_it_is_the_recurrence(length):
    given = inputs(length=length)
    for ours, plain in zip(selective_scan(*given), _reference(*given), strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("tile", [1, 20, 40])
def test_rows_advance_in_any_number_together(tile, monkeypatch):
    given = inputs()
    whole = selective_scan(*given)[0]
    monkeypatch.setattr(module, "_TILE", tile)
    torch.testing.assert_close(selective_scan(*given)[0], whole)


@pytest.mark.parametrize("cut", [1, 16, 20, 36])
def test_a_whole_is_its_parts(cut):
    *sequences, d = inputs()
    u, delta, a, b, c = sequences
    whole, end = selective_scan(u, delta, a, b, c, d)
    first, state = selective_scan(u[:, :cut], delta[:, :cut], a, b[:, :cut], c[:, :cut], d)
    second, state = selective_scan(u[:, cut:], delta[:, cut:], a, b[:, cut:], c[:, cut:], d, state=state)
    torch.testing.assert_close(torch.cat((first, second), 1), whole)
    torch.testing.assert_close(state, end)


def test_a_state_that_is_given_stays_as_it_was():
    u, delta, a, b, c, _ = inputs()
    state = torch.randn(3, 5, 4, dtype=u.dtype, generator=torch.Generator().manual_seed(1))
    before = state.clone()
    selective_scan(u, delta, a, b, c, state=state)
    assert torch.equal(state, before)


@pytest.mark.parametrize("length", [1, 16, 37])
def test_gradients_are_those_of_the_recurrence(length):
    given = [x.requires_grad_() for x in inputs(length=length)]
    generator = torch.Generator().manual_seed(2)
    weights = None
    grads = []
    for form in (selective_scan, _reference):
        outputs = form(*given)
        weights = weights or [torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in outputs]
        loss = sum((x * w).sum() for x, w in zip(outputs, weights, strict=True))
        grads.append(torch.autograd.grad(loss, given))
    for ours, plain in zip(*grads, strict=True):
        torch.testing.assert_close(ours, plain)


def test_what_training_keeps_is_linear_in_length_and_far_less_than_all_states():
    kept = []
    for length in (160, 320):
        given = [x.requires_grad_() for x in inputs(length=length, channels=32, states=16)]
        saved: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, saved=saved: saved.append(x) or x, lambda x: x):
            selective_scan(*given)
        kept.append(sum(x.numel() for x in saved if x.ndim > 2))  # what has a length
    assert kept[1] == 2 * kept[0]
    assert kept[1] < 3 * 320 * 32 * 16 / 2


def test_the_gradient_of_the_first_state():
    u, delta, a, b, c, _ = inputs(rows=2, length=18, channels=2, states=2)
    state = torch.randn(2, 2, 2, dtype=u.dtype, generator=torch.Generator().manual_seed(3)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: selective_scan(u, delta, a, b, c, state=s), state)


def test_bfloat16_stays_close():
    given = inputs(dtype=torch.float32)
    half = selective_scan(*(x.bfloat16() for x in given))[0]
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), selective_scan(*given)[0], atol=0.3, rtol=0.1)


def test_rows_do_not_meet():
    u, delta, a, b, c, d = inputs()
    alone = selective_scan(u[1:2], delta[1:2], a, b[1:2], c[1:2], d)[0]
    torch.testing.assert_close(selective_scan(u, delta, a, b, c, d)[0][1:2], alone)


@pytest.mark.border
@pytest.mark.parametrize("wrong", ["delta", "a", "b", "c", "state"])
def test_shapes_that_do_not_fit_are_named(wrong):
    given = dict(zip(("u", "delta", "a", "b", "c"), inputs()[:5], strict=True))
    given[wrong] = torch.zeros(2, 2) if wrong == "a" else torch.zeros(2, 2, 2)
    with pytest.raises(InputError, match=wrong):
        selective_scan(**given)
