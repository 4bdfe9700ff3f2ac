"""LongVQ: linear time against the dense form, the moving average against its recurrence, the codebook in training."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harken.attention._codes import _reference, nearest_codes, update_codebook
from harken.attention._damped_average import DampedAverage
from harken.attention.longvq import LongVqAttention, longvq_attention
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import observe


def layer_of(causal: bool = True, **options: object) -> LongVqAttention:
    torch.manual_seed(1)
    return LongVqAttention(8, 2, causal=causal, **{"codebook_size": 5, "window": 3, **options})  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(time=st.integers(1, 17), window=st.integers(1, 6), codes=st.integers(1, 6), causal=st.booleans())
def test_linear_time_equals_the_equation(time: int, window: int, codes: int, causal: bool) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(1, 2, time, d, generator=generator, dtype=torch.float64) for d in (3, 3, 4))
    book = torch.randn(2, codes, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(window, generator=generator, dtype=torch.float64)
    mixed = longvq_attention(q, k, v, book, bias, causal=causal)
    torch.testing.assert_close(mixed, _reference(q, k, v, book, bias, causal=causal), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_the_matrix_mixes_the_values(causal: bool, seed: torch.Generator) -> None:
    layer, x = layer_of(causal).eval(), torch.randn(2, 14, 8, generator=seed)
    parts, _ = layer._project(x, None, None)
    torch.testing.assert_close(layer.weights(x) @ parts.values, layer._mix(parts, None), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_a_codebook_of_all_keys_is_exact_attention(causal: bool, seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 9, 4, generator=seed) for _ in range(3))
    mixed = longvq_attention(q, k, v, k[0], torch.zeros(2), causal=causal)
    exact = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(mixed, exact, atol=1e-5, rtol=1e-5)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(time=st.integers(1, 12), chunk=st.integers(1, 5), cut=st.integers(0, 11))
def test_the_average_is_its_recurrence(time: int, chunk: int, cut: int) -> None:
    torch.manual_seed(time)
    average, x, cut = DampedAverage(3, 4).double(), torch.randn(2, time, 3, dtype=torch.float64), min(cut, time - 1)
    mixed, h = recurrence(average, slice(0, 3), x)
    expected = torch.nn.functional.silu(mixed + average.omega * x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harken.attention._damped_average._CHUNK", chunk)
        y, state = average(x)
        torch.testing.assert_close(y, expected)
        torch.testing.assert_close(state, h)
        if cut:
            start, state = average(x[:, :cut])
            rest, state = average(x[:, cut:], state)
            torch.testing.assert_close(torch.cat((start, rest), 1), y)
            torch.testing.assert_close(state, h)


def test_both_directions_see_the_present(seed: torch.Generator) -> None:
    average, x = DampedAverage(3, 4, bidirectional=True).double(), torch.randn(1, 7, 3, generator=seed).double()
    forward, _ = recurrence(average, slice(0, 3), x)
    backward, _ = recurrence(average, slice(3, 6), x.flip(1))
    expected = torch.nn.functional.silu(forward + backward.flip(1) + average.omega * x)
    torch.testing.assert_close(average(x)[0], expected)


def recurrence(average: DampedAverage, part: slice, x: Tensor) -> tuple[Tensor, Tensor]:
    """One direction, one position after another; and its last state."""
    p, a = average.delta[part].sigmoid(), average.alpha[part].sigmoid()
    h, mixed = x.new_zeros(len(x), 3, 4), []
    for x_t in x.unbind(1):
        h = p * average.beta[part] * x_t.unsqueeze(-1) + (1 - p * a) * h
        mixed.append((h * average.gamma[part]).sum(-1) / 2)
    return torch.stack(mixed, 1), h


def test_training_follows_the_keys_and_evaluation_does_not(seed: torch.Generator) -> None:
    layer, x = layer_of(), torch.randn(2, 20, 8, generator=seed)
    before = layer.codebook.clone()
    layer.eval()(x)
    assert torch.equal(layer.codebook, before)
    layer.train()
    with observe(layer, "loss") as seen:
        for _ in range(3):
            layer(x)
    first, *_, last = seen.all("loss")
    assert last < first  # keys are nearer to codewords that were taken from them
    assert (layer.code_counts > 0).all()


def test_the_codebook_moves_after_the_pass_that_uses_it(seed: torch.Generator) -> None:
    """The backward pass of a training step must find what its forward pass used."""
    x, found = torch.randn(2, 20, 8, generator=seed), []
    for training in (True, False):
        layer = layer_of()
        y = layer.train(training)(x)
        y.square().sum().backward()
        found.append([y, layer.key_scale.grad, layer.memory.delta.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_an_update_is_a_running_mean_of_assigned_keys(seed: torch.Generator) -> None:
    k, book = torch.randn(1, 1, 6, 2, generator=seed), torch.randn(1, 3, 2, generator=seed)
    codes = nearest_codes(k, book)
    mask = torch.tensor([[True] * 5 + [False]])
    sums, counts = update_codebook(book * 2, torch.full((1, 3), 2.0), k, codes, decay=0.75, mask=mask)
    for code in range(3):
        assigned = k[0, 0, :5][codes[0, 0, :5] == code]
        torch.testing.assert_close(counts[0, code], 0.75 * 2 + 0.25 * torch.tensor(float(len(assigned))))
        torch.testing.assert_close(sums[0, code], 0.75 * 2 * book[0, code] + 0.25 * assigned.sum(0))


def test_padding_moves_no_codeword(seed: torch.Generator) -> None:
    x, mask, books = torch.randn(1, 12, 8, generator=seed), torch.arange(12)[None] < 8, []
    for noise in (0.0, 30.0):
        layer = layer_of().train()
        for _ in range(2):
            layer(torch.where(mask[..., None], x, x + noise), mask=mask)
        books.append(layer.codebook)
    torch.testing.assert_close(*books)


def test_unused_codes_are_revived(seed: torch.Generator) -> None:
    layer, x = layer_of().train(), torch.randn(2, 30, 8, generator=seed)
    layer(x)
    layer.code_sums = torch.cat((layer.code_sums[:, :-1], layer.code_sums[:, -1:] + 1e4), 1)  # out of reach
    layer.code_counts = torch.cat((layer.code_counts[:, :-1], torch.full((2, 1), 1e-3)), 1)
    layer(x)
    assert layer.codebook.abs().max() < 100


def test_gradients_reach_keys_through_the_codebook(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 6, 4, generator=seed) for _ in range(3))
    k.requires_grad_()
    longvq_attention(q, k, v, torch.randn(1, 3, 4, generator=seed), torch.zeros(3)).square().sum().backward()
    assert k.grad is not None and (k.grad.abs().amax(-1) > 0).all()


@pytest.mark.parametrize("causal", [True, False])
def test_gradients_of_slices_do_not_make_training_quadratic(causal: bool) -> None:
    """A slice's gradient is as large as what it was cut from: one for each window, of everything, is quadratic."""
    layer = LongVqAttention(8, causal=causal, codebook_size=4, window=4)

    def written(time: int) -> int:
        nodes, todo = set(), [layer(torch.randn(1, time, 8)).grad_fn]
        while todo:
            node = todo.pop()
            if node is not None and node not in nodes:
                nodes.add(node)
                todo += [before for before, _ in node.next_functions]
        cuts = [node for node in nodes if node.name() in ("SliceBackward0", "SelectBackward0")]
        return sum(math.prod(node._saved_self_sym_sizes) for node in cuts)

    assert written(1024) <= 4.5 * max(written(256), 1024)


def test_keys_as_they_are_do_not_stream() -> None:
    layer = layer_of(quantize=False)
    with pytest.raises(CapabilityError, match="use quantize=True"):
        layer.step(torch.zeros(1, 2, 8), layer.init_state(1))


def test_mistakes_get_a_line_each() -> None:
    with pytest.raises(InputError, match="key_dim=3"):
        layer_of(key_dim=3)
    with pytest.raises(InputError, match="window=0"):
        layer_of(window=0)
    with pytest.raises(CheckpointError, match="it has no"):
        LongVqAttention.from_authors({})
