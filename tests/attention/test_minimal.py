"""Minimal attention: equal to four matrices where it should be, and as few parameters as the paper counts."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import pytest
import torch

from harken.attention import create_attention
from harken.attention.minimal import MinimalAttention, QueryKey, Value, _reference
from harken.errors import InputError
from tests.attention.kit import Check, Subject, battery


class Symmetric(MinimalAttention):
    """Another extreme than the defaults."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False):
        super().__init__(dim, heads, causal=causal, query_key="cholesky", value="separate", bias=True)


@pytest.mark.parametrize(
    ("check", "subject"), [parameter for parameter in battery(Symmetric) if pytest.mark.border not in parameter.marks]
)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


def matrices(layer: MinimalAttention) -> tuple[torch.Tensor, torch.Tensor]:
    """``W_Q W_K^T`` and ``W_V W_O`` of each head, ``(heads, dim, dim)``, from the parameters."""
    dim, heads, width = layer.dim, layer.heads, layer.head_dim
    identity = torch.eye(dim, dtype=torch.float64)
    made = [] if layer.projection is None else [w.T for w in layer.projection.weight.split(dim)]
    query, key = identity, identity
    if layer.query_key == "separate":
        query, key = made[:2]
    elif layer.query_key == "collapsed":
        query = made[0]
    elif layer.query_key == "symmetric":
        query = key = made[0]
    else:
        query = key = torch.block_diag(*layer._triangles())
    value = identity if layer.value == "none" else made[-1]
    out = identity if layer.output is None else layer.output.weight.T
    heads_of = [slice(h * width, (h + 1) * width) for h in range(heads)]
    compare = torch.stack([query[:, part] @ key[:, part].T for part in heads_of])
    return compare, torch.stack([value[:, part] @ out[part] for part in heads_of])


@pytest.mark.parametrize(("query_key", "value"), list(product(get_args(QueryKey), get_args(Value))))
@pytest.mark.parametrize("causal", [False, True])
def test_equals_the_definition_and_streams(query_key: Any, value: Any, causal: bool, seed: torch.Generator) -> None:
    layer = MinimalAttention(6, 2, causal=causal, query_key=query_key, value=value).double()
    x = torch.randn(2, 5, 6, generator=seed, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    compare, mixed = matrices(layer)
    expected = _reference(x, compare, mixed, heads=2, causal=causal, mask=mask)
    torch.testing.assert_close(layer(x, mask=mask), expected, atol=1e-12, rtol=1e-12)
    if causal:
        y, state = layer.step(x[:, :3], layer.init_state(2, dtype=torch.float64))
        last, state = layer.step(x[:, 3:], state)
        torch.testing.assert_close(torch.cat((y, last), 1), layer(x), atol=1e-12, rtol=1e-12)
        kept = sum(part.numel() * part.element_size() for part in state if part is not None)
        assert kept == layer.cost(2, 5).state
    else:
        torch.testing.assert_close(layer(x, x.clone()), layer(x))


def test_one_head_collapses_exactly(seed: torch.Generator) -> None:
    """With ``W = W_Q W_K^T`` and ``W_VO = W_V W_O``, without biases."""
    full = MinimalAttention(8, 1, query_key="separate", value="separate").double()
    few = MinimalAttention(8, 1, query_key="collapsed", value="collapsed").double()
    compare, mixed = (part[0] for part in matrices(full))
    few.load_state_dict({"projection.weight": torch.cat((compare.T, mixed.T))})
    x = torch.randn(2, 5, 8, generator=seed, dtype=torch.float64)
    torch.testing.assert_close(few(x), full(x), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize(
    ("query_key", "value", "count"),
    [
        ("separate", "separate", 4 * 64),
        ("collapsed", "separate", 3 * 64),
        ("collapsed", "none", 64),
        ("symmetric", "separate", 3 * 64),
        ("cholesky", "separate", 2 * 64 + 8 * 9 // 2),
    ],
)
def test_has_as_many_parameters_as_the_paper_counts(query_key: Any, value: Any, count: int) -> None:
    layer = create_attention("minimal", dim=8, heads=1, query_key=query_key, value=value)
    assert sum(parameter.numel() for parameter in layer.parameters()) == count


@pytest.mark.parametrize("query_key", ["symmetric", "cholesky"])
def test_symmetric_similarities_are_symmetric_and_positive(query_key: Any, seed: torch.Generator) -> None:
    layer = MinimalAttention(8, 2, query_key=query_key)
    q, k, _ = layer.project(torch.randn(1, 5, 8, generator=seed))
    scores = q @ k.transpose(-1, -2)
    torch.testing.assert_close(scores, scores.mT)
    assert torch.linalg.eigvalsh(scores).min() > -1e-5


def test_without_values_outputs_lie_between_the_inputs(seed: torch.Generator) -> None:
    x = torch.randn(1, 7, 4, generator=seed)
    y = MinimalAttention(4, 1)(x)
    assert (y <= x.amax(1, keepdim=True) + 1e-6).all() and (y >= x.amin(1, keepdim=True) - 1e-6).all()


def test_order_means_nothing_without_positions(seed: torch.Generator) -> None:
    layer, x, order = MinimalAttention(8, 2), torch.randn(1, 6, 8, generator=seed), torch.randperm(6)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


def test_one_tensor_is_keys_and_values() -> None:
    layer = MinimalAttention(8, 2, causal=True)
    _, state = layer.step(torch.ones(1, 5, 8), layer.init_state(1))
    assert state.keys.shape == (1, 2, 5, 4) and state.values.numel() == 0


@pytest.mark.border
def test_wrong_options_get_a_line() -> None:
    with pytest.raises(InputError, match="query_key='qk' is unknown: one of separate, collapsed"):
        MinimalAttention(8, 2, query_key="qk")
    with pytest.raises(InputError, match="no option 'none': one of unchanged, Wqk"):
        MinimalAttention.from_authors({}, option="none", heads=1)
    with pytest.raises(InputError, match=r"expected the weights qk.weight, qk.bias, got x"):
        MinimalAttention.from_authors({"x": torch.ones(1)}, option="Wqk+noWvWo", heads=1)
