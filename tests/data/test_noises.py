"""Noises that are computed."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.noises import coloured_noise, shaped_noise, tilt


def slope(samples: np.ndarray) -> float:
    """Decibels per octave, from 100 Hz to 6.4 kHz."""
    power = np.abs(np.fft.rfft(samples)) ** 2
    edges = 100 * 2.0 ** np.arange(7)
    hertz = np.arange(len(power)) * 8000 / (len(power) - 1)
    levels = [10 * np.log10(power[(hertz >= a) & (hertz < 2 * a)].mean()) for a in edges[:-1]]
    return float(np.polyfit(np.arange(6), levels, 1)[0])


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_coloured_noise_falls_by_three_decibels_an_octave_for_each_exponent(exponent):
    noise = coloured_noise(32000, exponent, np.random.default_rng(0))
    assert slope(noise) == pytest.approx(-3.01 * exponent, abs=0.5)
    assert noise.dtype == np.float32


@pytest.mark.parametrize("db", [-6.0, 3.0])
def test_a_tilt_has_its_slope(db):
    white = coloured_noise(32000, 0.0, np.random.default_rng(0))
    assert slope(tilt(white, db, 16000)) - slope(white) == pytest.approx(db, abs=0.3)


def test_no_tilt_changes_nothing():
    white = coloured_noise(1001, 0.0, np.random.default_rng(0))
    assert tilt(white, 0.0, 16000) == pytest.approx(white, abs=1e-5)


@pytest.mark.parametrize("samples", [2, 100, 4001])
def test_shaped_noise_is_finite_and_of_unit_level_whatever_is_drawn(samples):
    for seed in range(25):
        noise = shaped_noise(samples, 16000, np.random.default_rng(seed))
        assert noise.shape == (samples,)
        assert noise.dtype == np.float32
        assert np.sqrt(np.mean(noise.astype(np.float64) ** 2)) == pytest.approx(1, abs=1e-3)


def test_a_seed_makes_one_noise():
    one, same, other = (shaped_noise(500, 16000, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
