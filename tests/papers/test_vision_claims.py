"""What the vision claims judge by, and that what they compare is what they say."""

from __future__ import annotations

import math

import pytest
import torch

from harken.attention.hilo import HiLoAttention
from harken.attention.softmax import SoftmaxAttention
from harken.papers import hilo, mala, minimal_transformer, sparsifiner
from harken.papers._sparse_masks import RULES, MaskedAttention
from harken.papers._trials import Trials
from harken.papers._vision import Digits, judged
from harken.papers._vision_layers import EagerHiLo, MultiHead, SpatialReduction, Windows


def trials(**means: float) -> Trials:
    """Three seeds with a small, common spread."""
    return Trials("accuracy", {name: [mean - 0.001, mean, mean + 0.001] for name, mean in means.items()})


@pytest.mark.parametrize(
    ("means", "growth", "verdict"),
    [
        ((0.90, 0.80, 0.90), 1.5, "holds"),
        ((0.95, 0.80, 0.90), 1.5, "holds in direction"),
        ((0.90, 0.89, 0.90), 1.5, "holds in direction"),
        ((0.90, 0.899, 0.90), 1.5, "not shown here"),
        ((0.90, 0.90, 0.80), 1.5, "fails here"),
        ((0.90, 0.80, 0.90), 1.0, "fails here"),
    ],
)
def test_mala_is_judged_against_both(means, growth, verdict):
    softmax, linear, own = means
    found = trials(softmax=softmax, linear=linear, mala=own)
    assert mala._judge(found, {"softmax": 2.0, "linear": 1.0, "mala": growth}) == verdict


@pytest.mark.parametrize(
    ("symmetric", "no_mlp", "minimum", "verdict"),
    [
        (0.95, 0.95, 0.95, "holds"),
        (0.95, 0.95, 0.80, "holds in direction"),
        (0.935, 0.95, 0.80, "not shown here"),
        (0.90, 0.95, 0.95, "fails here"),
        (0.95, 0.90, 0.95, "fails here"),
    ],
)
def test_less_is_judged_by_what_it_loses(symmetric, no_mlp, minimum, verdict):
    found = trials(full_1_head=0.95, symmetric=symmetric, no_mlp_4_heads=no_mlp, minimum=minimum)
    assert minimal_transformer._judge(found, "full_1_head") == verdict


@pytest.mark.parametrize(
    ("dense", "learned", "local", "random", "verdict"),
    [
        (0.90, 0.90, 0.85, 0.85, "holds"),
        (0.95, 0.90, 0.85, 0.85, "holds in direction"),
        (0.90, 0.90, 0.897, 0.85, "holds in direction"),
        (0.95, 0.90, 0.90, 0.85, "not shown here"),
        (0.90, 0.90, 0.95, 0.85, "fails here"),
    ],
)
def test_a_choice_of_keys_is_judged_against_blind_ones(dense, learned, local, random, verdict):
    found = trials(**{"dense": dense, "learned_25%": learned, "local_25%": local, "random_25%": random})
    assert sparsifiner._judge(found) == verdict


@pytest.mark.parametrize(
    ("hilo_is", "msa", "windows", "none", "verdict"),
    [
        (0.90, 0.90, 0.80, 0.70, "holds"),
        (0.90, 0.90, 0.90, 0.70, "holds in direction"),
        (0.90, 0.90, 0.80, 0.90, "not shown here"),
        (0.80, 0.90, 0.80, 0.70, "fails here"),
    ],
)
def test_hilo_is_judged_where_attention_matters(hilo_is, msa, windows, none, verdict):
    assert hilo._judge_accuracy(trials(hilo=hilo_is, msa=msa, windows=windows, none=none)) == verdict


@pytest.mark.parametrize(
    ("published", "fused", "verdict"),
    [
        ((1.4, 1.6, 2.0), (1.2, 1.2, 1.2), "holds"),
        ((1.4, 1.6, 2.0), (0.9, 1.2, 1.2), "holds in direction"),
        ((1.1, 1.6, 2.0), (1.2, 1.2, 1.2), "holds in direction"),
        ((0.9, 1.6, 2.0), (1.2, 1.2, 1.2), "not shown here"),
        ((0.9, 0.9, 2.0), (1.2, 1.2, 1.2), "fails here"),
    ],
)
def test_speed_is_judged_by_its_ratios(published, fused, verdict):
    named = [dict(zip(hilo.OTHERS, ratios, strict=True)) for ratios in (published, fused)]
    assert hilo._judge_speed(*named) == verdict


def test_the_published_hilo_computes_what_ours_does():
    torch.manual_seed(0)
    eager = EagerHiLo(48, 12, window=2, alpha=0.9)
    ours = HiLoAttention.from_authors(eager.state_dict(), heads=12, window_size=2)
    x = torch.randn(2, 6 * 4, 48)
    torch.testing.assert_close(eager(x, (6, 4)), ours(x, grid=(6, 4)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "build",
    [
        lambda fused: MultiHead(24, 4, fused=fused),
        lambda fused: Windows(24, 4, window=2, fused=fused),
        lambda fused: SpatialReduction(24, 4, ratio=2, fused=fused),
    ],
)
def test_fused_baselines_compute_what_published_ones_do(build):
    torch.manual_seed(0)
    one, other = build(False), build(True)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 6 * 4, 24)
    torch.testing.assert_close(one(x, (6, 4)), other(x, (6, 4)), atol=1e-5, rtol=1e-4)


def test_the_compared_layers_have_the_parameters_of_the_paper():
    counts = {
        2.20: EagerHiLo(768, 12, window=2, alpha=0.9),
        4.72: SpatialReduction(768, 12, ratio=2, fused=True),
        2.36: MultiHead(768, 12, fused=True),
    }
    for millions, layer in counts.items():
        assert sum(p.numel() for p in layer.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_windows_see_only_themselves():
    layer = Windows(8, 2, window=2, fused=False)
    x = torch.randn(1, 4 * 4, 8)
    changed = x.clone()
    changed[0, 0] += 1  # upper left
    differs = (layer(x, (4, 4)) - layer(changed, (4, 4))).abs().sum(-1)[0].view(4, 4) > 1e-6
    assert differs.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


@pytest.mark.parametrize("rule", RULES)
def test_masks_keep_their_share_and_the_class_row(rule):
    layer = MaskedAttention(16, 2, keep=0.25, rule=rule, side=4, seed=1)
    weights = layer.weights(torch.randn(3, 17, 16))
    kept = (weights > 0).sum(-1)
    assert kept[:, :, 0].unique().tolist() == [17]
    assert kept[:, :, 1:].unique().tolist() == [math.ceil(0.25 * 17)]


def test_local_masks_keep_the_class_token_and_the_nearest():
    weights = MaskedAttention(16, 2, keep=0.3, rule="local", side=4, seed=1).weights(torch.randn(1, 17, 16))
    row, column = 1, 1
    kept = weights[0, 0, 1 + 4 * row + column].nonzero().flatten().tolist()
    assert kept == sorted([0, *(1 + 4 * r + c for r, c in ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1)))])


def test_oracle_masks_keep_the_largest_weights():
    torch.manual_seed(0)
    layer, dense = MaskedAttention(16, 2, keep=0.25, rule="oracle", side=4, seed=1), SoftmaxAttention(16, 2)
    dense.load_state_dict(layer.state_dict())
    x = torch.randn(1, 17, 16)
    kept = layer.weights(x)[:, :, 1:] > 0
    full = dense.weights(x)[:, :, 1:]
    assert full.masked_fill(~kept, 2).amin(-1).ge(full.masked_fill(kept, -1).amax(-1)).all()


def test_every_held_out_digit_judges_once():
    digits = Digits()

    class Seven(torch.nn.Module):
        def forward(self, images):
            return torch.eye(10)[7].expand(len(images), -1) * 9

    sevens = float((digits.held_out.labels == 7).float().mean())
    assert judged(Seven(), digits.held_out).accuracy == pytest.approx(sevens)
