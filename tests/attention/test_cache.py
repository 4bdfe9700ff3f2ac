"""What a stream keeps: exact where it says so, bounded always, never changed under who holds it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from harken.attention import Attention, create_attention, select_state
from harken.attention._growing import grown
from harken.attention.cache import CachePolicy, FullCache, HeavyHitters, parse_cache, sink_window, use_cache
from harken.errors import InputError

FAMILY = ("softmax", "span", "shifted", "sink-shifted", "moh")


def build(name: str, cache: CachePolicy | None, **options: object) -> Attention:
    if name == "span":
        options = {"span": "full", **options}
    torch.manual_seed(0)
    return create_attention(name, dim=16, heads=4, causal=True, cache=cache, **options).eval()


@torch.no_grad()
def stream(layer: Attention, x: Tensor, sizes: tuple[int, ...], **options: Tensor) -> tuple[Tensor, tuple]:
    state, parts = layer.init_state(x.shape[0]), []
    for part in x.split(sizes, 1):
        y, state = layer.step(part, state, **options)
        parts.append(y)
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("name", FAMILY)
def test_within_the_budget_heavy_hitters_are_full_attention(name: str, seed: torch.Generator) -> None:
    layer, x = build(name, HeavyHitters(6, 6, slack=1)), torch.randn(2, 12, 16, generator=seed)
    y, state = stream(layer, x, (5, 1, 1, 3, 1, 1))
    torch.testing.assert_close(y, layer(x), atol=1e-5, rtol=1e-5)
    assert state.positions[0, 0].tolist() == list(range(12))


@pytest.mark.parametrize("slack", [1, 4])
@pytest.mark.parametrize("kv_heads", [2, 4])
def test_heavy_hitters_are_bounded_and_keep_the_last(slack: int, kv_heads: int, seed: torch.Generator) -> None:
    layer = build("softmax", HeavyHitters(3, 2, slack=slack), kv_heads=kv_heads)
    y, state = stream(layer, torch.randn(2, 40, 16, generator=seed), (9,) + 31 * (1,))
    assert y.isfinite().all()
    assert state.keys.shape[:3] == state.scores.shape == (2, kv_heads, state.positions.shape[2])
    assert 5 <= state.keys.shape[2] < 5 + slack
    assert (state.positions[..., -2:] == torch.tensor([38, 39])).all()
    assert (state.positions.diff(dim=-1) > 0).all()
    assert sum(part.numel() * part.element_size() for part in state) == layer.cost(2, 40).state


def _by_hand(q: Tensor, k: Tensor, v: Tensor, heavy: int, recent: int) -> tuple[Tensor, list[int]]:
    """One head, position by position: a list of kept positions and a dictionary of their scores."""
    kept: list[int] = []
    scores: dict[int, float] = {}
    out = []
    for t in range(q.shape[0]):
        kept.append(t)
        weights = (k[kept] @ q[t] / q.shape[1] ** 0.5).softmax(0)
        out.append(weights @ v[kept])
        for position, weight in zip(kept, weights.tolist(), strict=True):
            scores[position] = scores.get(position, 0.0) + weight
        if len(kept) > heavy + recent:
            kept.remove(min(kept[:-recent], key=scores.__getitem__))
    return torch.stack(out), kept


def test_heavy_hitters_equal_the_rule_by_hand(seed: torch.Generator) -> None:
    policy = HeavyHitters(3, 4, slack=1)
    q, k, v = (torch.randn(2, 3, 30, 4, generator=seed) for _ in range(3))
    state, parts = policy.init_state(k[:, :, :0]), []
    with torch.no_grad():
        for t in range(30):
            y, state = policy.step(*(part[:, :, t : t + 1] for part in (q, k, v)), state)
            parts.append(y)
    for b in range(2):
        for h in range(3):
            out, kept = _by_hand(q[b, h], k[b, h], v[b, h], 3, 4)
            torch.testing.assert_close(torch.cat(parts, 2)[b, h], out)
            assert state.positions[b, h].tolist() == kept


@pytest.mark.parametrize("name", FAMILY)
def test_a_window_with_sinks_is_a_mask(name: str, seed: torch.Generator) -> None:
    layer, x = build(name, sink_window(5, sinks=2, slack=3)), torch.randn(2, 30, 16, generator=seed)
    y, state = stream(layer, x, (1, 11, 1, 1, 14, 1, 1))
    masked = build("span", None, span="window", span_size=4, sinks=2)
    if name == "moh":
        gates = layer.route(x).transpose(1, 2).unsqueeze(-1)
        expected = layer.merge(masked.mix(*layer.project(x), None) * gates)
    else:
        expected = masked(x)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)
    assert 6 <= state.keys.shape[2] < 9


@pytest.mark.parametrize("cache", [None, HeavyHitters(4, 4), sink_window(6)])
def test_padding_is_never_seen_again(cache: CachePolicy | None, seed: torch.Generator) -> None:
    """Prompts of two lengths, padded on the left, then a stream of both: each as if it were alone."""
    layer, x = build("softmax", cache), torch.randn(2, 9, 16, generator=seed)
    mask = torch.arange(9) >= torch.tensor([[0], [4]])
    with torch.no_grad():
        y, state = layer.step(x, layer.init_state(2), mask=mask)
        noise = torch.where(mask[..., None], x, 9.0)
        _, noisy = layer.step(noise, layer.init_state(2), mask=mask)
        more = torch.randn(2, 1, 16, generator=seed)
        last, _ = layer.step(more, state)
        torch.testing.assert_close(layer.step(more, noisy)[0], last)
        if cache is None:
            alone = layer(torch.cat((x[1:, 4:], more[1:]), 1))
            torch.testing.assert_close(torch.cat((y[1:, 4:], last[1:]), 1), alone, atol=1e-5, rtol=1e-5)


def test_a_caller_may_go_back(seed: torch.Generator) -> None:
    """Two streams go on from one state; neither writes into the other."""
    layer, x = build("softmax", None), torch.randn(1, 12, 16, generator=seed)
    with torch.no_grad():
        _, start = layer.step(x[:, :4], layer.init_state(1))
        _, one = layer.step(x[:, 4:6], start)
        held = one.keys.clone()
        second, other = layer.step(x[:, 8:10], start)
        assert torch.equal(one.keys, held)
        torch.testing.assert_close(second, layer(x[:, [0, 1, 2, 3, 8, 9]])[:, 4:], atol=1e-5, rtol=1e-5)
        chosen = select_state(other, torch.tensor([0, 0]))
        layer.step(x[:, 10:11].expand(2, -1, -1), chosen)
        torch.testing.assert_close(layer.step(x[:, 6:7], one)[0], layer(x[:, :7])[:, 6:], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_stream_does_not_copy_its_past_at_every_step() -> None:
    whole, buffers = torch.zeros(1, 1, 0, 2), set()
    for t in range(500):
        whole = grown(whole, torch.full((1, 1, 1, 2), float(t)))
        buffers.add(whole.untyped_storage().data_ptr())
    assert whole[0, 0, :, 0].tolist() == list(range(500))
    assert len(buffers) <= 5


def test_gradients_flow_through_a_stream(seed: torch.Generator) -> None:
    layer, x = build("softmax", None), torch.randn(1, 6, 16, generator=seed).requires_grad_()
    state, parts = layer.init_state(1), []
    for part in x.split(2, 1):
        y, state = layer.step(part, state)
        parts.append(y)
    (streamed,) = torch.autograd.grad(torch.cat(parts, 1).square().sum(), x)
    (whole,) = torch.autograd.grad(layer(x).square().sum(), x)
    torch.testing.assert_close(streamed, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.border
def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="heavy=2, recent=0, slack=16"):
        HeavyHitters(2, 0)
    with pytest.raises(InputError, match="window=1 must be at least 2"):
        sink_window(1)
    with pytest.raises(InputError, match="a cache is for streams"):
        create_attention("softmax", dim=8, heads=2, cache=sink_window(8))
    layer = build("softmax", None)
    with pytest.raises(InputError, match=r"boolean mask of shape \(1, 2\)"):
        layer.step(torch.ones(1, 2, 16), layer.init_state(1), mask=torch.ones(1, 3, dtype=torch.bool))


@pytest.mark.parametrize(
    ("name", "policy"),
    [("full", FullCache()), ("window-8-2", sink_window(8, sinks=2)), ("heavy-3-4", HeavyHitters(3, 4))],
)
def test_a_policy_has_a_name(name: str, policy: CachePolicy) -> None:
    assert parse_cache(name) == policy
    assert create_attention("softmax", dim=8, heads=2, causal=True, cache=name).cache == policy


@pytest.mark.parametrize(
    "name", ["heavy", "heavy-1", "heavy-1-0", "window-1-1", "window-4", "lru-3-3", "heavy--1-3", ""]
)
def test_no_other_name_is_one(name: str) -> None:
    with pytest.raises(InputError):
        parse_cache(name)


def test_a_model_gets_another_cache(seed: torch.Generator) -> None:
    model = torch.nn.ModuleList([build("softmax", None), torch.nn.Linear(2, 2), build("moh", None)])
    use_cache(model, "heavy-2-3")
    _, state = stream(model[0], torch.randn(1, 40, 16, generator=seed), (1,) * 40)
    assert state.keys.shape[2] < 5 + 16


def test_a_model_without_keys_and_values_takes_no_cache() -> None:
    with pytest.raises(InputError, match="softmax"):
        use_cache(create_attention("linear", dim=8, heads=2, causal=True), "heavy-2-3")
