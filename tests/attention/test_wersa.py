"""WERSA: wavelets that lose nothing, features that keep angles, and a causal form that is causal."""

from __future__ import annotations

import pytest
import torch

from harken.attention import wersa
from harken.attention._haar import haar, inverse_haar, weigh_past
from harken.attention.wersa import WersaAttention, _reference
from harken.errors import CapabilityError, CheckpointError, InputError

SMALL = {"levels": 2, "random_features": 12, "filter_width": 5, "chunk_size": 4}


@pytest.mark.parametrize("levels", [0, 1, 4])
def test_the_transform_loses_nothing(levels: int, seed: torch.Generator) -> None:
    x = torch.randn(2, 32, 3, generator=seed, dtype=torch.float64)
    scales = haar(x, levels)
    torch.testing.assert_close(inverse_haar(scales), x)
    torch.testing.assert_close(sum(scale.square().sum() for scale in scales), x.square().sum())


def test_without_gates_the_causal_transform_loses_nothing(seed: torch.Generator) -> None:
    x = torch.randn(1, 7 + 12, 3, generator=seed, dtype=torch.float64)
    torch.testing.assert_close(weigh_past(x, torch.ones(1, 12, 4, dtype=torch.float64)), x[:, 7:])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("filters", ["token", "global"])
def test_equals_the_equations(causal: bool, filters: str, seed: torch.Generator) -> None:
    if causal and filters == "global":
        return
    for shared in (True, False):
        layer = WersaAttention(8, 2, causal=causal, filters=filters, shared_features=shared, **SMALL).double().eval()
        for time in (1, 11):
            x = torch.randn(2, time, 8, generator=seed, dtype=torch.float64)
            torch.testing.assert_close(layer(x), _reference(layer, x), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("causal", [False, True])
def test_long_sequences_go_piece_by_piece(causal: bool, monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    layer = WersaAttention(8, 2, causal=causal, **SMALL).eval()
    x, mask = torch.randn(1, 30, 8, generator=seed), torch.arange(30)[None] % 7 > 0
    whole = layer(x, mask=mask)
    monkeypatch.setattr(wersa, "SEGMENT", 8)
    torch.testing.assert_close(layer(x, mask=mask), whole, atol=1e-5, rtol=1e-5)


def test_softmax_features_estimate_the_exponential_kernel(seed: torch.Generator) -> None:
    layer = WersaAttention(8, 1, kernel="softmax", random_features=20000).eval()
    with torch.no_grad():
        layer.log_bandwidth.copy_(torch.tensor(0.9).expm1().log())  # softplus of it and 0.1 make 1
    q, k = (torch.randn(1, 1, 6, 8, generator=seed) for _ in range(2))
    kernel = layer.random_kernel()
    estimate = kernel.queries(q) @ kernel.keys(k).transpose(-1, -2)
    exact = (q @ k.transpose(-1, -2) * 8**-0.5).exp()
    assert ((estimate - exact).abs() / exact).median() < 0.05


@pytest.mark.parametrize(("shared", "seen"), [(True, 1.0), (False, 0.0)])
def test_independent_matrices_lose_the_angle_that_a_shared_one_keeps(shared: bool, seen: float) -> None:
    u = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).view(1, 1, 2, 2)
    kernel = WersaAttention(2, 1, random_features=4096, shared_features=shared).random_kernel()
    same, opposite = (kernel.queries(u) @ kernel.keys(u).transpose(-1, -2))[0, 0, 0].tolist()
    assert (same - opposite) / (same + opposite) == pytest.approx(seen, abs=0.1)


@pytest.mark.parametrize("kernel", ["relu", "softmax"])
def test_large_inputs_stay_finite(kernel: str) -> None:
    layer = WersaAttention(8, 2, kernel=kernel, causal=True, **SMALL)  # type: ignore[arg-type]
    x = (1e3 * torch.ones(1, 9, 8)).requires_grad_()
    layer(x).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_global_filters_know_what_is_padding(seed: torch.Generator) -> None:
    layer, x = WersaAttention(8, 2, filters="global", **SMALL).eval(), torch.randn(1, 9, 8, generator=seed)
    mask = torch.arange(9)[None] < 5
    torch.testing.assert_close(layer(x, mask=mask)[:, :5], layer(x[:, :5]))


def test_the_seed_makes_the_features_and_the_weights_keep_them() -> None:
    one, same, other = (WersaAttention(8, 2, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(one.features, same.features) and not torch.equal(one.features, other.features)
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.features, other.features)


@pytest.mark.border
def test_mistakes_get_a_line_each() -> None:
    with pytest.raises(CapabilityError, match="looks ahead"):
        WersaAttention(8, 2, causal=True, filters="global")
    with pytest.raises(InputError, match="levels=-1"):
        WersaAttention(8, 2, levels=-1)
    with pytest.raises(InputError, match="filter_width=4 must be odd"):
        WersaAttention(8, 2, filter_width=4)
    with pytest.raises(InputError, match="kernel='cosine'"):
        WersaAttention(8, 2, kernel="cosine")  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="no parameter"):
        WersaAttention.from_authors({}, 2)
