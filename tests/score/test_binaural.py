"""Differences between the ears: known delays and levels are found, and errors are theirs."""

from __future__ import annotations

import numpy as np
import pytest

from harken.errors import InputError
from harken.score.binaural import ild, ild_error, itd, itd_error


def heard(delay: float, decibels: float, rate: int = 16000) -> np.ndarray:
    """Noise that reaches the left ear first by ``delay`` seconds, and louder."""
    noise = np.random.default_rng(0).standard_normal(rate)
    turned = np.fft.rfft(noise) * np.exp(-2j * np.pi * np.fft.rfftfreq(rate, 1 / rate) * delay)
    return np.stack((noise * 10 ** (decibels / 20), np.fft.irfft(turned, rate)))


@pytest.mark.parametrize("delay", [0.0, 3e-4, -3e-4, 7.1e-4])
@pytest.mark.parametrize("decibels", [0.0, 6.0, -12.0])
def test_known_differences_are_found(delay, decibels):
    signal = heard(delay, decibels)
    assert ild(signal) == pytest.approx(decibels, abs=0.1)
    assert itd(signal, 16000) == pytest.approx(delay, abs=3e-6)


def test_errors_are_the_difference_of_both():
    assert ild_error(heard(0, 3), heard(0, -3)) == pytest.approx(6, abs=0.2)
    assert itd_error(heard(2e-4, 0), heard(-3e-4, 0), 16000) == pytest.approx(500, abs=5)


def test_a_silent_ear_has_no_difference():
    signal = heard(0, 0)
    signal[1] = 0
    assert np.isnan(ild(signal)) and np.isnan(itd(signal, 16000))


def test_one_ear_is_not_enough():
    with pytest.raises(InputError, match="both ears"):
        ild(np.ones((1, 100)))
