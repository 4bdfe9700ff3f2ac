"""DBConformer: the paper's sizes, what each branch may know, masks, any attention, the authors' names."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

import harken
from harken.errors import CheckpointError, InputError
from harken.models.brain.dbconformer import DBConformer, DBConformerConfig, _filter_each

SMALL = DBConformerConfig.small()


def model(**changes) -> DBConformer:
    torch.manual_seed(0)
    made = DBConformer(replace(SMALL, **changes)).eval()
    with torch.no_grad():  # as if trained: the first weights of the temporal stem make next to nothing of a trial
        for name, parameter in made.named_parameters():
            if "stem" in name:
                parameter.normal_(0.0, 0.3)
    return made


def trials(count=3) -> torch.Tensor:
    return torch.randn(count, SMALL.channels, SMALL.samples, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("layers", "parameters"), [(2, 93_747), (6, 251_507)])
def test_it_has_the_parameters_of_the_paper(layers, parameters):
    made = DBConformer(DBConformerConfig(classes=2, temporal_layers=layers, spatial_layers=layers))
    assert sum(p.numel() for p in made.parameters()) == parameters


@torch.inference_mode()
def test_without_places_swapped_channels_are_swapped_tokens_and_the_spatial_branch_cannot_tell():
    x, order = trials(), torch.tensor([3, 0, 5, 1, 4, 2])
    made = model(positions=False)
    one, other = made.encode(x), made.encode(x[:, order])
    torch.testing.assert_close(other.spatial_tokens, one.spatial_tokens[:, order])
    torch.testing.assert_close(other.spatial, one.spatial[:, order], atol=1e-4, rtol=1e-4)
    alone = model(positions=False, branch="spatial")
    torch.testing.assert_close(alone(x), alone(x[:, order]), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one.temporal_tokens, other.temporal_tokens)
    with_places = model(branch="spatial")
    assert not torch.allclose(with_places(x), with_places(x[:, order]), atol=1e-4)


@torch.inference_mode()
def test_channel_attention_sums_to_one_and_is_seen_by_observers():
    made = model()
    with harken.observe(made, "channel_attention") as seen:
        made(trials())
    (weights,) = seen["channel_attention"].values()
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    torch.testing.assert_close(weights, made.channel_attention(trials()))


@torch.inference_mode()
def test_a_masked_channel_changes_nothing_whatever_it_holds():
    made, x = model(), trials()
    mask = torch.ones(3, SMALL.channels, dtype=torch.bool)
    mask[:, 2] = False
    broken = x.clone()
    broken[:, 2] = float("nan")
    torch.testing.assert_close(made(x, mask=mask), made(broken, mask=mask))
    with harken.observe(made, "channel_attention") as seen:
        made(broken, mask=mask)
    (weights,) = seen["channel_attention"].values()
    assert not weights[:, 2].any()
    torch.testing.assert_close(made(x, mask=torch.ones_like(mask)), made(x), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_trials_of_other_lengths_have_other_numbers_of_patches():
    made = model()
    assert made.encode(trials()[..., :100]).temporal_tokens.shape == (3, 3, SMALL.dim)
    # what is left behind the last whole patch has no token of its own
    assert made.encode(F.pad(trials(), (0, 20))).temporal_tokens.shape == (3, 8, SMALL.dim)
    with pytest.raises(InputError, match="9 patches, the model knows 8 places"):
        made(F.pad(trials(), (0, 28)))
    with pytest.raises(InputError, match="too short for a patch of 28"):
        made(trials()[..., :20])
    with pytest.raises(InputError, match="batch, 6, samples"):
        made(trials()[:, :5])


def test_merged_norms_change_nothing():
    stem, x = model().temporal_stem, trials(8)
    stem.train()
    for _ in range(3):
        stem(x)  # running statistics that are not those of the start
    stem.eval()
    with torch.no_grad():
        whole = stem.filter_norm(stem.filter(stem.mix_norm(stem.mix(x))))
        expected = F.avg_pool1d(F.gelu(whole), stem.patch, stem.patch).transpose(1, 2)
        torch.testing.assert_close(stem(x), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("taps", "samples"), [(63, 224), (5, 7), (63, 20), (1, 9)])
def test_rows_filtered_by_transform_equal_a_depthwise_convolution(taps, samples):
    x, kernels = torch.randn(2, 4, samples, requires_grad=True), torch.randn(4, taps, requires_grad=True)
    ours, theirs = _filter_each(x, kernels), F.conv1d(x, kernels[:, None], padding=taps // 2, groups=4)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    weights = torch.randn_like(ours)
    one = torch.autograd.grad((ours * weights).sum(), (x, kernels))
    other = torch.autograd.grad((theirs * weights).sum(), (x, kernels))
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("attention", ["softmax", "linear", "mala", "moh", "span:span_size=4"])
def test_any_attention_learns_in_both_branches(attention):
    made = model(attention=attention).train()
    made(trials()).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("changes", [{"branch": "temporal"}, {"branch": "spatial"}, {"fusion": "gate"},
                                     {"channel_attention": False}, {"positions": False}])  # fmt: skip
def test_every_ablation_gives_logits_and_holds_no_idle_parameters(changes):
    made = model(**changes).train()
    out = made(trials())
    assert out.shape == (3, SMALL.classes)
    out.square().mean().backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    with pytest.raises(InputError, match="no channel attention"):
        model(branch="temporal").channel_attention(trials())


@torch.inference_mode()
def test_bfloat16_is_close():
    made, x = model(), trials()
    torch.testing.assert_close(made.bfloat16()(x.bfloat16()).float(), model()(x), atol=0.05, rtol=0.1)


@pytest.mark.border
def test_a_configuration_that_cannot_be_is_refused():
    for changes, message in (
        ({"patch": 500}, "longer than a trial"),
        ({"kernel_size": 4}, "odd kernel_size"),
        ({"branch": "third"}, "branch of both"),
        ({"channels": 0}, "channels of 1 or more"),
        ({"dropout": 1.0}, "dropout"),
    ):
        with pytest.raises(InputError, match=message):
            replace(SMALL, **changes)


def test_weights_of_the_authors_tell_their_sizes():
    from pathlib import Path

    from harken.papers.parity import load_case

    weights = load_case(Path(__file__).parents[2] / "parity" / "dbconformer").weights
    made = DBConformer.from_authors(weights)
    c = made.config
    assert (c.channels, c.dim, c.patches, c.temporal_layers, c.spatial_layers, c.classes) == (8, 40, 5, 2, 2, 2)
    for broken in ({}, {**weights, "extra": torch.zeros(1)}, {k: v for k, v in weights.items() if "fc.6" not in k}):
        with pytest.raises(CheckpointError):
            DBConformer.from_authors(broken)


@pytest.mark.border
def test_a_trial_without_a_batch_is_refused():
    with pytest.raises(InputError, match="batch, 6, samples"):
        model()(trials()[0])
