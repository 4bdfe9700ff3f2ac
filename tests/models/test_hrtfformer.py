"""HRTFformer and the baselines beside it: what a mean, a mirror and a fit promise, and the authors' names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from harken.data.hrtf import equiangular_grid, magnitudes, sphere_grid, spread_directions
from harken.errors import CheckpointError, InputError
from harken.layers.iterative_projection import IterativeProjection, conv_norm
from harken.models.enhance.hrtf_baselines import BASELINES, Listeners, Measured
from harken.models.enhance.hrtfformer import HRTFformer, HRTFformerConfig, own_names, token_norm
from harken.score.hrtf import spectral_distortion
from tests.listeners import GRID, listener

FREQUENCIES = np.arange(1, 9) * 16000 / 32
TINY = HRTFformerConfig(
    bins=8,
    sample_rate=16000,
    n_fft=32,
    input_degree=2,
    degree=3,
    hidden=16,
    heads=2,
    groups=1,
    expansion=1,
    norm="layer",
    conv_norm="layer",
    channel_cap=16,
    encoder_hidden=16,
    latent=4,
    decoder_width=8,
    decoder_length=4,
    ups=2,
    directions=len(GRID),
    kriging_degree=4,
)


def fields(seeds) -> torch.Tensor:
    return torch.from_numpy(np.stack([magnitudes(listener(seed), FREQUENCIES) for seed in seeds]))


@pytest.fixture(scope="module")
def others() -> Listeners:
    return Listeners(fields(range(12)), torch.from_numpy(GRID))


def build(others=None, **changes) -> HRTFformer:
    torch.manual_seed(0)
    model = HRTFformer(replace(TINY, **changes)).eval()
    if others is not None:
        model.learn_listeners(others.fields, others.directions, torch.linspace(0.01, 1, 5))
    return model


def stirred(model: HRTFformer) -> HRTFformer:
    """Past the zeros that a model on top of kriging begins with."""
    torch.nn.init.normal_(model.decoder.out.weight, std=0.1)
    return model


def measured(field, count=9) -> Measured:
    index = torch.from_numpy(spread_directions(GRID, count))
    at = torch.from_numpy(GRID)
    return Measured(field[index], at[index], at)


def test_the_papers_size_and_coefficients():
    with torch.device("meta"):
        model = HRTFformer(HRTFformerConfig.paper(3))
    assert [stage.down.conv.stride[0] for stage in model.encoder.stages] == [2, 2, 1, 1]
    assert [stage.down.conv.out_channels for stage in model.encoder.stages] == [512, 1024, 2048, 2048]
    assert (len(model.decoder.stages), model.config.coefficients) == (5, 484)


@pytest.mark.parametrize(
    ("degree", "strides"), [(1, [1, 1, 1, 1]), (2, [2, 1, 1, 1]), (3, [2, 2, 1, 1]), (4, [2, 2, 2, 1])]
)
def test_strides_follow_the_coefficients(degree, strides):
    with torch.device("meta"):
        model = HRTFformer(HRTFformerConfig.paper(degree))
    assert [stage.down.conv.stride[0] for stage in model.encoder.stages] == strides


def test_without_a_mean_it_maps_coefficients_as_the_paper_has_it():
    model = build(directions=0)
    x = torch.randn(2, 9, 16)
    assert model(x).shape == (2, 16, 16)
    assert not hasattr(model, "mean")
    at = torch.from_numpy(GRID)
    assert model.predict(torch.randn(2, 9, 16), at[:9], at).shape == (2, len(GRID), 16)


def test_with_a_mean_it_begins_as_kriging(others):
    new = measured(fields([20])[0])
    model = build(others)
    wanted = BASELINES["kriging"][0](new, Listeners(others.fields, others.directions, penalty=model.penalty))
    torch.testing.assert_close(
        model.predict(new.magnitudes[None], new.directions, new.wanted)[0], wanted, atol=1e-3, rtol=0
    )


def test_a_listener_in_a_mirror_is_answered_in_a_mirror(others):
    symmetric = replace_mean(stirred(build(others)))
    index = mirror_of(GRID)
    field = fields([21])
    seen = torch.cat((field[:, index, 8:], field[:, index, :8]), -1)
    points = np.array([0, 7, 20, 33, 40])
    at = torch.from_numpy(GRID)
    made = symmetric.predict(field[:, points], at[points], at)
    # measured in the mirror's directions, wanted in all
    other = symmetric.predict(seen[:, index[points]], at[index[points]], at)
    torch.testing.assert_close(other, torch.cat((made[:, index, 8:], made[:, index, :8]), -1), atol=1e-4, rtol=1e-4)


def mirror_of(grid) -> np.ndarray:
    from harken.train.hrtf import mirror_index

    found = mirror_index(grid)
    assert found is not None
    return found


def replace_mean(model: HRTFformer) -> HRTFformer:
    """With a mean and a spread that are the same in a mirror."""
    index = mirror_of(GRID)
    model.mean.copy_((model.mean + torch.cat((model.mean[index, 8:], model.mean[index, :8]), -1)) / 2)
    model.scale.copy_((model.scale + model.scale.roll(8)) / 2)
    return model


def test_the_distance_to_the_mean_scales_the_answer(others):
    model = stirred(build(others))
    x = torch.randn(2, 25, 16)
    torch.testing.assert_close(model(3 * x), 3 * model(x), atol=1e-3, rtol=1e-3)


def test_any_number_of_directions_and_other_ones_than_the_grid(others):
    model = stirred(build(others))
    wanted = torch.from_numpy(sphere_grid(17))
    for count in (1, 3, 20):
        new = measured(fields([22])[0], count)
        made = model.predict(new.magnitudes[None], new.directions, wanted)
        assert made.shape == (1, 17, 16) and bool(made.isfinite().all())


def test_gradients_reach_every_parameter(others):
    model = stirred(build(others)).train()
    model(torch.randn(3, 25, 16)).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("norm", ["token-scale", "rms", "layer", "batch"])
def test_every_norm_of_tokens_is_one(norm):
    x = 5 * torch.randn(8, 6, 16)
    assert token_norm(norm, 16)(x).square().mean().item() == pytest.approx(1, abs=0.1)


def test_an_iterative_projection_doubles_the_length_for_any_number_of_turns():
    for ups in (2, 3, 5):
        block = IterativeProjection(3, 4, ups=ups, norm="layer")
        assert block(torch.randn(2, 3, 8)).shape == (2, 4, 16)
        assert (len(block.ups), len(block.downs)) == (ups, ups - 1)
    with pytest.raises(InputError, match="at least twice"):
        IterativeProjection(3, 4, ups=1)


@pytest.mark.border
def test_other_norms_are_refused():
    for make in (token_norm, conv_norm):
        with pytest.raises(InputError, match="norm must be"):
            make("none", 4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden": 18, "heads": 4},
        {"bins": 20},
        {"ups": 1},
        {"input_degree": 4},
        {"kriging_degree": 2},
        {"directions": -1},
    ],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        replace(TINY, **wrong)


def test_the_authors_names_are_all_ours(tmp_path):
    theirs = load_file("tests/parity/hrtfformer/weights.safetensors")
    own = own_names(theirs)
    assert not [name for name in own if "proj" in name and "in_proj" not in name and "out_proj" not in name]
    assert {name.split(".")[1] for name in own if name.startswith("iterative.")} == {"ups", "downs", "out"}
    with pytest.raises(CheckpointError, match="key and value"):
        own_names({"encoder.layers.0.layers.0.attention.query_proj.weight": torch.zeros(2, 2)})


def test_baselines_return_what_was_measured_where_it_was(others):
    field = fields([23])[0]
    dense = Measured(field, torch.from_numpy(GRID), torch.from_numpy(GRID))
    assert torch.equal(BASELINES["nearest"][0](dense, None), field)
    for name in ("harmonics", "kriging"):
        assert float(spectral_distortion(BASELINES[name][0](dense, others), field)) < 0.6


def test_a_known_listener_is_found_among_the_others(others):
    new = measured(others.fields[4])
    assert torch.equal(BASELINES["best-match"][0](new, others), others.fields[4])


def test_those_that_learn_beat_the_mean_and_the_nearest(others):
    scores = {name: [] for name in BASELINES}
    for seed in range(30, 34):
        field = fields([seed])[0]
        for name, (function, _) in BASELINES.items():
            scores[name].append(float(spectral_distortion(function(measured(field, 12), others), field)))
    mean = {name: np.mean(values) for name, values in scores.items()}
    assert mean["kriging"] < 0.9 * min(mean["training-mean"], mean["nearest"])
    assert mean["mean-harmonics"] < mean["training-mean"]
    assert mean["kernel-ridge"] < mean["training-mean"]


def test_the_kernels_ridge_is_the_one_that_leaves_one_out_best(others):
    """The closed form against refitting: a mixture of equal listeners is their own field."""
    same = Listeners(others.fields[:1].repeat(3, 1, 1), others.directions)
    new = measured(others.fields[0])
    torch.testing.assert_close(BASELINES["kernel-ridge"][0](new, same), others.fields[0])


def test_methods_that_learn_say_that_they_need_others():
    for name, (function, needs) in BASELINES.items():
        if needs:
            with pytest.raises(InputError, match=f"'{name}' learns from other listeners"):
                function(measured(fields([0])[0]), None)


@pytest.mark.border
def test_listeners_of_other_shapes_are_refused():
    with pytest.raises(InputError, match="listeners, directions, values"):
        Listeners(torch.zeros(0, 3, 4), torch.zeros(3, 2))


def test_a_coarser_grid_is_upsampled_to_a_finer_one(others):
    finer = equiangular_grid(20.0, lowest=-60.0)
    wanted = torch.from_numpy(magnitudes(listener(40, finer), FREQUENCIES))
    new = measured(fields([40])[0], 16)._replace(wanted=torch.from_numpy(finer))
    made = BASELINES["kriging"][0](new, others)
    assert float(spectral_distortion(made, wanted)) < 2.5
