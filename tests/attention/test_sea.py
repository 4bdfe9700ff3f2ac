"""SEA against one query at a time, its two forms against each other, and what the method promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from harken.attention._cells import cell_of, keep, keep_causal
from harken.attention.sea import Lesson, SeaAttention, _reference
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.observation import observe
from harken.papers.parity import load_case

CASE = Path(__file__).parents[1] / "parity" / "sea"


def layer_of(causal: bool, **options: object) -> SeaAttention:
    torch.manual_seed(1)
    settings = {"keys": 4, "map_width": 8, "sparse_from": 0, "max_positions": 16, **options}
    return SeaAttention(12, 2, causal=causal, **settings).eval()  # type: ignore[arg-type]


def qkv(time: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 2, time, 6, generator=generator) for _ in range(3)]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 24),
    grouping=st.sampled_from(("query", "head", "batch", "causal_batch", "causal")),
    sparse=st.booleans(),
)
def test_equals_one_query_after_another(time: int, grouping: str, sparse: bool) -> None:
    causal = grouping == "causal"
    options = {} if causal else {"grouping": grouping}
    layer = layer_of(causal, sparse_from=0 if sparse else 100, **options)
    q, k, v = qkv(time, seed=time)
    parts = layer.parts(q, k, v)
    expected = _reference(q, k, v, parts.kept, parts.estimate.gates, None if causal else parts.average)
    torch.testing.assert_close(layer.mix(q, k, v, None), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts.mixed, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_tiles_and_dense_pairs_agree_with_their_gradients(causal: bool) -> None:
    x = torch.randn(2, 70, 12, generator=torch.Generator().manual_seed(0))
    found = []
    for sparse_from in (0, 100):
        layer = layer_of(causal, sparse_from=sparse_from)
        y = layer(x)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad for p in layer.parameters() if p.grad is not None)])
    assert len(found[0]) == 1 + len(list(layer.parameters()))
    for sparse, dense in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_with_keys_for_all_the_sparse_part_is_softmax_attention(causal: bool) -> None:
    layer, (q, k, v) = layer_of(causal, keys=20), qkv(20)
    parts = layer.parts(q, k, v)
    dense = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(parts.sparse @ v / parts.estimate.gates[..., :1], dense, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("grouping", ["query", "head", "batch", "causal_batch"])
def test_a_query_keeps_as_many_keys_as_asked(grouping: str) -> None:
    layer, (q, k, v) = layer_of(False, grouping=grouping, keys=8, map_width=16), qkv(64)
    kept = layer.parts(q, k, v).mask.float()
    assert kept.sum(-1).mean().item() == pytest.approx(8, rel=0.01)


def test_a_causal_query_keeps_as_many_keys_as_asked() -> None:
    layer, (q, k, v) = layer_of(True, keys=8, map_width=16), qkv(64)
    kept = layer.parts(q, k, v).mask.float().mean(1)
    assert torch.equal(kept[:, :8], torch.ones(8, 64).tril().expand(2, 8, 64))
    assert kept[:, 16:].sum(-1).mean().item() == pytest.approx(8, rel=0.15)


def test_every_key_has_a_cell_and_cells_are_runs() -> None:
    cells = cell_of(10, torch.tensor([[3, 10]]), 4)[0]
    assert cells[0, :3].tolist() == [0, 1, 3]
    assert cells[1].tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_the_largest_cells_are_kept() -> None:
    cells = torch.tensor([[[[0.1, 0.4, 0.3, 0.2]]], [[[0.4, 0.1, 0.2, 0.3]]]]).expand(2, 1, 8, 4)
    expected = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 1]], dtype=torch.bool)
    for kept in (keep(cells, None, 4, "query"), keep_causal(cells, 7, 4)[:, :, :1]):
        assert torch.equal(kept[:, 0, 0], expected)


def test_long_passes_go_in_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(1, 50, 12, generator=torch.Generator().manual_seed(0))
    whole = layer_of(True)(x)
    monkeypatch.setattr("harken.attention.sea._FEWEST", 8)
    torch.testing.assert_close(layer_of(True)(x), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_distillation_teaches_the_estimator(causal: bool) -> None:
    layer, x = layer_of(causal, straight_through=False), torch.randn(2, 9, 12)
    layer.lesson = Lesson(torch.randn(2, 2, 9, 9), torch.randn(2, 9, 12))
    with observe(layer, "loss") as seen:
        layer(x)
    (loss,) = seen.all("loss")
    loss.backward()
    assert loss.item() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.estimator.parameters())


@pytest.mark.parametrize("causal", [False, True])
def test_padding_teaches_nothing(causal: bool) -> None:
    layer, (q, k, v) = layer_of(causal), qkv(9)
    scores, context = torch.randn(2, 2, 9, 9), torch.randn(2, 9, 12)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    loss = layer.distillation(q, k, v, Lesson(scores, context), mask)
    noise = 10 * torch.randn(2, 1, 9, 6).masked_fill(mask[:, None, :, None], 0.0)
    scores = scores + 10 * (~mask).float()[:, None, None, :]
    context = context + 10 * (~mask).float()[..., None]
    again = layer.distillation(q + noise, k + noise, v + noise, Lesson(scores, context), mask)
    torch.testing.assert_close(again, loss)


def test_without_a_straight_path_the_output_does_not_train_the_map() -> None:
    x = torch.randn(1, 12, 12)
    for straight, reached in ((True, True), (False, False)):
        layer = layer_of(True, straight_through=straight)
        layer(x).sum().backward()
        assert (layer.estimator.conv2.weight.grad is not None) is reached  # type: ignore[union-attr]


def test_released_code_lets_padding_in() -> None:
    """The released bidirectional form differs where there is padding, and only there."""
    q, k, v = qkv(9)
    ours, theirs = layer_of(False), layer_of(False, legacy=True)
    mask = torch.arange(9) < torch.tensor([[9], [5]])
    torch.testing.assert_close(ours.mix(q, k, v, None), theirs.mix(q, k, v, None))
    assert (ours.mix(q, k, v, mask) - theirs.mix(q, k, v, mask))[1, :, :5].abs().max() > 1e-4


def test_a_checkpoint_of_something_else_is_refused() -> None:
    weights = {k.removeprefix("opt."): w for k, w in load_case(CASE).weights.items() if k.startswith("opt.")}
    with pytest.raises(CheckpointError, match="it has no"):
        SeaAttention.from_authors({}, heads=3, causal=True, keys=4)
    weights["attention_predictor_enc.0.weight"] = torch.zeros(2, 2)
    with pytest.raises(CheckpointError, match="other sizes"):
        SeaAttention.from_authors(weights, heads=3, causal=True, keys=4)


def test_mistakes_get_a_line_each() -> None:
    with pytest.raises(CapabilityError, match="grouping='batch' has no causal order"):
        layer_of(True, grouping="batch")
    with pytest.raises(InputError, match="map_width=6 must be a positive multiple of 4"):
        layer_of(True, map_width=6)
    with pytest.raises(InputError, match="keys=0"):
        layer_of(True, keys=0)
    q, k, _ = qkv(3)
    with pytest.raises(CapabilityError, match="depends on the values"):
        layer_of(True).mix_weights(q, k, None)
