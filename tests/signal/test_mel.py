"""Mel filters: evenly spaced in mels, of equal area, where they should be."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.signal.mel import mel_filters


def test_noise_of_one_density_is_equal_in_all_bands():
    filters = mel_filters(20, 2048, 16000)
    areas = filters.sum(1) * 16000 / 2048
    torch.testing.assert_close(areas, torch.ones(20), atol=0.01, rtol=0)


def test_bands_are_even_below_a_kilohertz_and_wider_above():
    peaks = mel_filters(40, 4096, 16000).argmax(1) * 16000 / 4096
    steps = peaks.diff()
    assert steps[:9].max() - steps[:9].min() < 2 * 16000 / 4096
    assert steps[-1] > 3 * steps[0]


def test_impossible_bands_are_refused():
    with pytest.raises(InputError):
        mel_filters(10, 512, 16000, 5000.0, 4000.0)
