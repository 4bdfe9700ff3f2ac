"""Scores of extended speech: the band that counts, and phases as the published program counts them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.data.mixing import low_pass
from harken.errors import InputError
from harken.score.extension import EXTENSION_METRICS, anti_wrapped_phase_distance, score_extension


@pytest.fixture
def wide():
    return np.random.default_rng(0).standard_normal(20000).astype(np.float32)


def test_what_is_missing_counts_in_its_own_band(wide):
    scores = score_extension(wide, low_pass(wide, 3600, 16000), 16000, above=4100)
    assert scores.keys() == EXTENSION_METRICS.keys()
    assert scores["lsd_high"] > 4 > 1 > scores["lsd_low"]
    assert scores["lsd_low"] < scores["lsd"] < scores["lsd_high"]


def test_phase_distance_is_that_of_the_definition():
    """Over more frames than are looked at together."""
    wide, noise = np.random.default_rng(1).standard_normal((2, 512 * 300))
    other, window = wide + 0.3 * noise, torch.hann_window(2048).double()
    spectra = [
        torch.stft(torch.from_numpy(signal), 2048, 512, window=window, return_complex=True) for signal in (wide, other)
    ]
    error = spectra[1].angle() - spectra[0].angle()
    zero = torch.zeros_like(error)
    parts = (error, error.diff(dim=0, prepend=zero[:1]), error.diff(dim=1, prepend=zero[:, :1]))
    wanted = [float((p - 2 * np.pi * (p / (2 * np.pi)).round()).square().mean(0).sqrt().mean()) for p in parts]
    assert anti_wrapped_phase_distance(wide, other) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("above", [0, 8000, -1])
def test_a_band_that_is_none_is_refused(wide, above):
    with pytest.raises(InputError, match="missing band begins"):
        score_extension(wide, wide, 16000, above=above)
