"""Multi-variate attention against its definition, the authors' tensors, and the symmetries of a grid."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import _grid_terms
from harken.attention._grid_terms import _reference, multivariate_attention
from harken.attention.multivariate import MultivariateAttention
from harken.errors import CheckpointError, InputError

CASE = Path(__file__).parents[1] / "parity/mvpformer"


def build(**options: object) -> MultivariateAttention:
    torch.manual_seed(0)
    layer = MultivariateAttention(8, 4, **options)  # type: ignore[arg-type]
    for parameter in layer.parameters():  # far from the small start, so that every term shows
        torch.nn.init.normal_(parameter, std=0.4)
    return layer.eval()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 5),
    channels=st.integers(1, 3),
    causal=st.booleans(),
    upstream=st.booleans(),
    window=st.sampled_from([None, 0, 1, 2]),
    padded=st.booleans(),
    queries=st.sampled_from([1, 4, 128]),
)
def test_equals_the_definition(
    time: int, channels: int, causal: bool, upstream: bool, window: int | None, padded: bool, queries: int
) -> None:
    layer = build(
        causal=causal,
        kv_heads=2,
        content_window=window,
        max_time=5 if upstream else 3,
        lag_indexing="upstream" if upstream else "lag",
        last_sees_all=upstream,
    ).double()
    x = torch.randn(2, time * channels, 8, generator=torch.Generator().manual_seed(time)).double()
    mask = torch.ones(2, time, channels, dtype=torch.bool)
    mask[1, :, max(1, channels - 1) :] = False
    mask[1, max(1, time - 2) :] = False
    q, k, v, terms, rules = layer._prepare(x, None, None, (channels, time))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_grid_terms, "_QUERIES", queries)
        mixed = multivariate_attention(q, k, v, terms, rules, mask=mask.flatten(1) if padded else None)
    expected = _reference(q, k, v, terms, rules, mask.flatten(1) if padded else None)
    real = mask.view(2, 1, time, channels, 1) if padded else torch.ones(1, dtype=torch.bool)
    torch.testing.assert_close(mixed * real, expected * real, atol=1e-10, rtol=1e-10)


def test_two_layers_of_the_authors_end_where_theirs_do() -> None:
    """The second layer too, through the rest of their block written out."""
    weights, io = load_file(CASE / "weights.safetensors"), load_file(CASE / "io.safetensors")
    x = io["tokens"].flatten(1, 2)

    def norm(x: Tensor, name: str) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], weights[f"mvpformer.{name}.weight"], 1e-5)

    for n in range(2):
        layer = MultivariateAttention.from_authors(weights, heads=4, layer=n).eval()
        h = norm(x, f"h.{n}.ln_1")
        up, gate, down = (weights[f"mvpformer.h.{n}.mlp.{part}_proj.weight"] for part in ("up", "gate", "down"))
        x = x + layer(h, grid=(3, 13)) + (F.silu(h @ gate.T) * (h @ up.T)) @ down.T
    torch.testing.assert_close(norm(x, "ln_f").view_as(io["hidden"]), io["hidden"], atol=1e-5, rtol=1e-5)


def test_reversed_channels_give_reversed_outputs(seed: torch.Generator) -> None:
    layer, x = build(causal=True), torch.randn(1, 4, 3, 8, generator=seed)
    y = layer(x.flatten(1, 2), grid=(3, 4)).view_as(x)
    turned = layer(x.flip(2).flatten(1, 2), grid=(3, 4)).view_as(x)
    torch.testing.assert_close(turned.flip(2), y)


@pytest.mark.parametrize("lag_indexing", ["lag", "upstream"])
def test_a_missing_channel_is_as_good_as_none(lag_indexing: str, seed: torch.Generator) -> None:
    layer, x = build(causal=True, lag_indexing=lag_indexing), torch.randn(1, 4, 3, 8, generator=seed)
    mask = torch.ones(1, 4, 3, dtype=torch.bool)
    mask[:, :, 2] = False
    y = layer(x.flatten(1, 2), grid=(3, 4), mask=mask.flatten(1)).view_as(x)
    alone = layer(x[:, :, :2].flatten(1, 2), grid=(2, 4)).view(1, 4, 2, 8)
    torch.testing.assert_close(y[:, :, :2], alone)


def test_far_keys_lose_their_content_but_not_their_place(seed: torch.Generator) -> None:
    layer, x = build(content_window=1), torch.randn(1, 5, 8, generator=seed)
    changed = x.clone()
    changed[:, 0] += 1
    before, after = (layer.weights(part, grid=(1, 5))[0, :, 4] for part in (x, changed))
    assert before[:, 0].min() > 0
    torch.testing.assert_close(before, after)


def test_with_the_released_rules_a_stream_of_known_length_equals_the_whole(seed: torch.Generator) -> None:
    layer = build(causal=True, content_window=2, lag_indexing="upstream", last_sees_all=True, length=7, max_time=9)
    x, state, parts = torch.randn(2, 14, 8, generator=seed), layer.init_state(2, channels=2), []
    for part in x.split([2, 6, 4, 2], 1):
        y, state = layer.step(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x, grid=(2, 7)))
    with pytest.raises(InputError, match="8 moments, but the layer counts from the end of 7"):
        layer.step(x[:, :2], state)


def test_a_stream_keeps_the_keys_of_its_window_only() -> None:
    layer = build(causal=True, content_window=3)
    _, state = layer.step(torch.ones(1, 20, 8), layer.init_state(1, channels=2))
    assert state.keys.shape[2] == 3 and state.values.shape[2] == 10


def test_content_outside_the_window_is_not_computed() -> None:
    layer, x = build(causal=True, content_window=1), torch.ones(1, 4 * 64, 8)
    for grid in ((64, 4), (4, 64)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            layer(x, grid=grid)
        assert layer.cost(1, 4 * 64, grid=grid).flops == counter.get_total_flops()
    wide = build(causal=True, content_window=None)
    assert layer.cost(1, 256, grid=(64, 4)).flops < wide.cost(1, 256, grid=(64, 4)).flops


@pytest.mark.border
def test_wrong_options_and_weights_get_a_line() -> None:
    for options, line in [
        ({"kv_heads": 3}, "multiple of kv_heads=3"),
        ({"content_window": -1}, "content_window=-1"),
        ({"length": 200}, "length=200"),
        ({"lag_indexing": "both"}, "one of 'lag', 'upstream'"),
    ]:
        with pytest.raises(InputError, match=line):
            MultivariateAttention(8, 4, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="raise max_channels"):
        MultivariateAttention(8, 4, max_channels=2)(torch.ones(1, 3, 8), grid=(3, 1))
    with pytest.raises(InputError, match="with length="):
        MultivariateAttention(8, 4, causal=True, last_sees_all=True).init_state(1)
    weights = load_file(CASE / "weights.safetensors")
    with pytest.raises(CheckpointError, match="with a layer 2"):
        MultivariateAttention.from_authors(weights, heads=4, layer=2)
    with pytest.raises(CheckpointError, match="heads=5 does not fit"):
        MultivariateAttention.from_authors(weights, heads=5)
