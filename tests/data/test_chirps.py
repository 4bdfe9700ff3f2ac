"""Synthetic chirps: the vectorised drawing equals the pixel loop, seeds decide, signals hold what pictures show."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harken.data.chirps import ChirpGrid, Chirps, _blur, _reference, chirp_signals, chirp_spectrograms, draw_chirps
from harken.errors import InputError

GRID = ChirpGrid(times=48, frequencies=40)


def test_drawing_equals_one_pixel_at_a_time():
    drawn = draw_chirps(12, GRID, seed=1)
    edges = Chirps(
        np.array([0.0, 44.9, 20.0, 20.0]), np.array([0.0, 99.9, 0.4, 50.0]), np.array([0.0, 100.0, 0.0, 0.0]),
        np.array([1.0, 15.0, 14.9, 9.0]), np.array([True, False, True, True]),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    for chirps in (drawn, edges):
        noise, level = rng.standard_normal((len(chirps), 40, 48)), rng.uniform(0.09, 0.3, len(chirps))
        made = chirp_spectrograms(chirps, GRID, noise=noise, noise_level=level)
        np.testing.assert_allclose(made, _reference(chirps, GRID, noise, level), atol=2e-6)


def test_the_blur_is_scipys():
    ndimage = pytest.importorskip("scipy.ndimage")
    picture = np.random.default_rng(0).standard_normal((20, 33))
    blurred = _blur(20, 1.0) @ picture @ _blur(33, 1.0).T
    np.testing.assert_allclose(blurred, ndimage.gaussian_filter(picture, 1), atol=1e-6)


def test_noise_keeps_the_share_that_a_blur_leaves():
    chirps = draw_chirps(8, seed=0)
    made = chirp_spectrograms(chirps, noise_level=np.full(8, 100.0))
    assert made[:, 8:-8, 8:-8].std() / 100 == pytest.approx(0.28, abs=0.01)


def test_seeds_decide_everything():
    one, again, other = (draw_chirps(5, GRID, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(one.targets(), again.targets())
    assert not np.array_equal(one.targets(), other.targets())
    pictures = [chirp_spectrograms(one, GRID, seed=seed) for seed in (3, 3, 4)]
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])


def test_between_bins_the_ridge_is_where_the_chirp_is():
    grid = replace(ChirpGrid(), noise=(0.0, 0.0))
    chirps = Chirps(np.array([20.3]), np.array([30.2]), np.array([49.7]), np.array([10.0]), np.array([False]))
    picture = chirp_spectrograms(chirps, grid, sub_bin=True)[0]
    column = int((20.3 + 5) * 128 / 60)
    expected = chirps.frequency_at(np.array([[((column + 0.5) * 60 / 128 - 20.3) / 10]]))[0, 0]
    centre = (picture[:, column] * (np.arange(128) + 0.5)).sum() / picture[:, column].sum() * 100 / 128
    assert centre == pytest.approx(expected, abs=0.1)
    along = picture.sum(0)
    assert (along * np.arange(128)).sum() / along.sum() * 60 / 128 == pytest.approx(25.3 - 0.23, abs=0.1)


def test_signals_hold_the_chirps():
    chirps = Chirps(np.array([4.0]), np.array([20.0]), np.array([40.0]), np.array([8.0]), np.array([False]))
    x = chirp_signals(chirps, 200.0, 20.0, snr=30)[0]
    before, middle = np.abs(np.fft.rfft(x[:600])), np.abs(np.fft.rfft(x[1500:1700]))
    assert middle.argmax() == pytest.approx(30, abs=2)  # 1 Hz a bin
    assert before[60:].max() < middle.max() / 5
    with pytest.raises(InputError, match="raise sfreq"):
        chirp_signals(chirps, 60.0, 20.0)


@pytest.mark.parametrize(
    "change", [{"times": 1}, {"frequencies": 10**6}, {"longest": 100.0}, {"noise": (0.3, 0.1)}, {"duration": np.inf}]
)
def test_impossible_pictures_are_refused(change):
    with pytest.raises(InputError):
        replace(GRID, **change)


def test_broken_chirps_are_refused():
    with pytest.raises(InputError, match="finite numbers as end_frequency"):
        Chirps(np.zeros(2), np.zeros(2), np.array([1.0, np.nan]), np.ones(2), np.zeros(2))
