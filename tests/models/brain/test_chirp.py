"""The chirp localizer: released names, updates merged and not, targets there and back, the ridge and the estimator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("sklearn")

from sklearn.base import clone

from harken.data.chirps import ChirpGrid, Chirps, chirp_signals, chirp_spectrograms, draw_chirps
from harken.errors import CheckpointError, InputError
from harken.layers.lora import merge_updates, unmerge_updates
from harken.models import weights_folder
from harken.models.brain import load_estimator
from harken.models.brain.chirp import ChirpLocalizer, ChirpLocalizerConfig
from harken.models.brain.chirp_locator import ChirpLocator
from harken.models.brain.chirp_ridge import follow_ridge
from harken.models.brain.chirp_traces import refined, trace_strength
from harken.models.brain.chirp_training import Lesson, lesson_pictures, shares, standardised_pictures, teach

CASE = Path(__file__).parents[2] / "parity/chirp-localization"
TINY = replace(ChirpLocalizerConfig.small(), image_size=32, dim=16, layers=1, heads=2, hidden=(16, 8))
SMALL = {"image_size": 32, "dim": 32, "layers": 2, "heads": 2, "hidden": (32, 16)}
GRID = ChirpGrid(times=32, frequencies=32)
bundled = pytest.mark.skipif(weights_folder("chirp-localization") is None, reason="no weights ship")


def test_targets_go_there_and_back():
    model = ChirpLocalizer(TINY)
    model.target_mean.copy_(torch.rand(5))
    model.target_std.copy_(torch.rand(5) + 0.1)
    places = torch.rand(7, 5)
    back = model.standardised(places) * model.target_std + model.target_mean
    torch.testing.assert_close(back, places)
    assert ((model.locate(torch.randn(3, 1, 32, 32)) >= 0) & (model.locate(torch.randn(3, 1, 32, 32)) <= 1)).all()


def test_released_weights_with_and_without_updates():
    state = load_file(CASE / "weights.safetensors")
    config = replace(ChirpLocalizerConfig(), image_size=32, patch_size=8, dim=32, layers=2, heads=4, expansion=1.5)
    model, x = ChirpLocalizer.from_authors(state, config).eval(), torch.rand(2, 3, 32, 32)
    expected = model(x)
    merge_updates(model)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    unmerge_updates(model)
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)
    for name in [name for name in state if name.endswith("lora_B.default.weight")]:
        state[name] = torch.zeros_like(state[name])
    plain = {n.replace(".base_layer", ""): w for n, w in state.items() if "lora" not in n}
    unadapted = ChirpLocalizer.from_authors(plain, replace(config, lora_rank=0)).eval()
    torch.testing.assert_close(ChirpLocalizer.from_authors(state, config).eval()(x), unadapted(x))
    prefixed = {f"base_model.model.{name}": w for name, w in state.items()}
    assert ChirpLocalizer.from_authors(prefixed).config == replace(config, heads=1)
    with pytest.raises(CheckpointError, match=r"vit\.something"):
        ChirpLocalizer.from_authors({**state, "vit.something": torch.zeros(1)}, config)


def test_adapted_it_starts_the_same_and_trains_little():
    model, x = ChirpLocalizer(TINY).eval(), torch.rand(2, 1, 32, 32)
    adapted = model.adapted(rank=2)
    torch.testing.assert_close(adapted(x), model(x))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert all(name.startswith("head.") or ".updates." in name for name in trained)
    assert any(".updates." in name for name in trained)


@pytest.mark.parametrize("change", [{"targets": 6}, {"targets": 0}, {"lora_dropout": 1.0}, {"hidden": (0, 3)}])
def test_impossible_sizes_are_refused(change):
    with pytest.raises(InputError):
        replace(TINY, **change)


def test_teaching_is_decided_by_its_seed_and_uses_training_statistics_alone():
    lesson = Lesson(pictures=64, epoch=32, validation=16)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(5)
        model = ChirpLocalizer(TINY)
        state = torch.random.get_rng_state()
        teach(model, lesson, GRID, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), state)
        models.append(model.state_dict())
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert not torch.equal(models[0]["head.0.weight"], models[2]["head.0.weight"])
    expected = shares(draw_chirps(4000, GRID, seed=0), GRID)
    torch.testing.assert_close(models[0]["target_mean"], expected.mean(0))
    with pytest.raises(InputError, match="expected a grid of 32 x 32"):
        teach(ChirpLocalizer(TINY), lesson, ChirpGrid())


def test_a_lesson_of_linear_chirps_has_no_others():
    _, places = lesson_pictures(50, GRID, Lesson(linear_only=True), 0)
    assert not places[:, 4].any()


def test_the_background_of_any_picture_looks_alike():
    rng = np.random.default_rng(0)
    quiet = rng.standard_normal((3, 30, 40))
    slope = np.linspace(1, 9, 30)[:, None]
    np.testing.assert_allclose(standardised_pictures(quiet * 7 + 3), standardised_pictures(quiet), atol=1e-5)
    by_row = standardised_pictures(quiet * slope + 5 * slope, by_row=True)
    np.testing.assert_allclose(by_row, standardised_pictures(quiet, by_row=True), atol=1e-5)
    assert not standardised_pictures(np.zeros((1, 8, 8))).any()


def test_the_ridge_follows_what_can_be_seen():
    grid = ChirpGrid(noise=(0.09, 0.1))
    chirps = draw_chirps(40, grid, seed=2)
    places = shares(chirps, grid).numpy()
    guess = follow_ridge(standardised_pictures(chirp_spectrograms(chirps, grid, seed=2)))
    seen = places[:, 3] > 4 / 60
    np.testing.assert_allclose(guess[seen, 0], places[seen, 0], atol=0.03)
    np.testing.assert_allclose(np.median(np.abs(guess - places)[seen, :3], 0), 0, atol=0.012)
    noise = follow_ridge(standardised_pictures(np.random.default_rng(0).standard_normal((2, 20, 30))), threshold=9.0)
    assert np.isfinite(noise).all()


def test_refining_moves_a_guess_to_the_trace():
    chirps = Chirps(np.array([20.3]), np.array([30.0]), np.array([50.0]), np.array([10.0]), np.array([False]))
    grid = ChirpGrid(times=64, frequencies=64)
    picture = standardised_pictures(chirp_spectrograms(chirps, grid, sub_bin=True))[0]
    true = shares(chirps, grid).numpy()[0]
    guess = true + np.array([0.04, -0.05, 0.03, 0.05, 1.0])
    moved, strength = refined(picture, guess)
    np.testing.assert_allclose(moved[:4], true[:4], atol=0.02)
    assert strength > trace_strength(picture, guess[None])[0] + 5
    assert strength >= 0.95 * trace_strength(picture, true[None])[0]


@pytest.fixture(scope="module")
def learned() -> ChirpLocator:
    return ChirpLocator(config=SMALL, pictures=2400, lr=5e-3, device="cpu").fit()


def test_it_learns_from_synthetic_pictures_and_reads_any_size(learned):
    chirps = draw_chirps(200, GRID, seed=99)
    for size in (32, 50):
        grid = ChirpGrid(times=size, frequencies=size)
        guess = learned.predict(chirp_spectrograms(chirps, grid, seed=99))
        assert guess.shape == (200, 3)
        r = [np.corrcoef(one, other)[0, 1] for one, other in zip(guess.T, chirps.targets().T, strict=True)]
        assert max(r[1:]) > 0.4
    assert clone(learned).get_params() == learned.get_params()


@pytest.mark.parametrize("method", ["network", "ridge"])
def test_saved_and_loaded_it_finds_the_same(method, learned, tmp_path):
    locator = learned if method == "network" else ChirpLocator(method="ridge").fit()
    locator.save(tmp_path)
    pictures = chirp_spectrograms(draw_chirps(4, GRID, seed=1), GRID)
    assert np.array_equal(load_estimator(tmp_path).predict_all(pictures), locator.predict_all(pictures))


def test_pictures_of_ones_own(learned):
    chirps = draw_chirps(24, GRID, seed=5)
    pictures = chirp_spectrograms(chirps, GRID, seed=5)
    own = ChirpLocator(config={**SMALL, "targets": 3}, epochs=2, device="cpu").fit(pictures, chirps.targets())
    assert own.predict(pictures).shape == (24, 3)
    assert np.isnan(own.predict_all(pictures)[:, 3:]).all()
    assert np.isfinite(own.refine(pictures)).all()
    tuned = ChirpLocator(config=SMALL, tune="lora", epochs=1, device="cpu").fit(pictures, chirps.targets())
    assert tuned.module_.config.lora_rank == 8


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "X", "y", "message"),
    [
        ({}, np.zeros((2, 32)), np.zeros((2, 3)), "expected spectrograms"),
        ({}, np.full((2, 32, 32), np.nan), np.zeros((2, 3)), "NaN or infinite"),
        ({}, np.ones((2, 32, 32)), np.zeros((3, 3)), r"expected y of shape \(2, 3\)"),
        ({}, np.ones((2, 32, 32)), np.full((2, 3), 200.0), "times within 60 s"),
        ({"method": "magic"}, None, None, "network or ridge"),
        ({"duration": 1.0}, None, None, "duration above 4 s"),
        ({"config": {"size": 3}}, None, None, "config: "),
    ],
)
def test_what_cannot_be_learned_is_said(options, X, y, message):
    with pytest.raises(InputError, match=message):
        ChirpLocator(**{"config": SMALL, **options}).fit(X, y)


@bundled
def test_what_ships_finds_chirps_in_signals_of_any_rate():
    chirps = Chirps(np.array([30.0]), np.array([15.0]), np.array([35.0]), np.array([12.0]), np.array([False]))
    locator = ChirpLocator.pretrained(device="cpu")
    for sfreq in (200.0, 513.0):
        x = chirp_signals(chirps, sfreq, 90.0, snr=6.0, seed=1)
        (found,) = locator.locate(x[:, None], sfreq)
        best = max(found, key=lambda chirp: chirp.strength)
        assert best.start_time == pytest.approx(30, abs=2)
        assert best.end_time == pytest.approx(42, abs=2)
        assert best.start_frequency == pytest.approx(15, abs=4)
        assert best.end_frequency == pytest.approx(35, abs=4)
    noise = chirp_signals(chirps, 200.0, 90.0, snr=-60.0, seed=2)
    assert locator.locate(noise[:, None], 200.0) == [[]]


@pytest.mark.border
def test_signals_that_cannot_be_read_are_refused(learned):
    with pytest.raises(InputError, match="give sfreq"):
        learned.locate(np.zeros((1, 1, 1000)))
    with pytest.raises(InputError, match="holds frequencies up to 50 Hz, not 100"):
        learned.locate(np.ones((1, 1, 1000)), 100.0)
    with pytest.raises(InputError, match="too few"):
        learned.locate(np.ones((1, 1, 40)), 400.0)
