from __future__ import annotations

import math

import pytest
import torch

from harken.errors import InputError
from harken.score.loudness import integrated_loudness, normalise_loudness

TONE = torch.sin(2 * math.pi * 997 * torch.arange(32000, dtype=torch.float64) / 16000)


def test_twice_the_level_is_six_decibels_louder():
    louder = integrated_loudness(torch.stack((0.1 * TONE, 0.2 * TONE)), 16000)
    assert float(louder[1] - louder[0]) == pytest.approx(20 * math.log10(2), abs=1e-6)


def test_pauses_hardly_count():
    padded = torch.cat((torch.zeros(16000), TONE, torch.zeros(16000)))
    assert float(integrated_loudness(padded, 16000)) == pytest.approx(float(integrated_loudness(TONE, 16000)), abs=0.8)


def test_normalising_reaches_the_target_unless_it_would_clip():
    assert float(integrated_loudness(normalise_loudness(0.003 * TONE, 16000), 16000)) == pytest.approx(-23, abs=1e-6)
    assert float(normalise_loudness(0.003 * TONE, 16000, target=10).abs().max()) == pytest.approx(1)


def test_silence_stays_silence():
    assert not normalise_loudness(torch.zeros(2, 8000), 16000).any()


def test_too_short_is_an_error():
    with pytest.raises(InputError, match="loudness needs at least"):
        integrated_loudness(torch.zeros(1000), 16000)
