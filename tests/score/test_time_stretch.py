from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.score._time_stretch import pitch_shift, time_stretch

TONE = torch.sin(2 * torch.pi * 500 * torch.arange(16000, dtype=torch.float64) / 16000)[None]


def pitch(signal: torch.Tensor) -> float:
    """The strongest frequency, Hz."""
    spectrum = torch.fft.rfft(signal[0] * torch.hann_window(signal.shape[-1], dtype=signal.dtype)).abs()
    return float(spectrum.argmax()) * 16000 / signal.shape[-1]


@pytest.mark.parametrize("rate", [0.8, 1.0, 1.25])
def test_stretching_keeps_the_pitch(rate):
    stretched = time_stretch(TONE, rate, 2048)
    assert stretched.shape[-1] == round(16000 / rate)
    assert pitch(stretched) == pytest.approx(500, abs=3)


@pytest.mark.parametrize("semitones", [-4, 4])
def test_shifting_keeps_the_length(semitones):
    shifted = pitch_shift(TONE, semitones, 2048)
    assert shifted.shape == TONE.shape
    assert pitch(shifted) == pytest.approx(500 * 2 ** (semitones / 12), abs=4)


def test_signals_may_have_rates_of_their_own():
    frames = torch.randn(2, 320, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rates = torch.tensor([1.01, 1.05], dtype=torch.float64)
    together = time_stretch(frames, rates, 160)
    for number, rate in enumerate(rates.tolist()):
        alone = time_stretch(frames[number, None], rate, 160)[0]
        torch.testing.assert_close(together[number, : len(alone)], alone)
        assert not together[number, len(alone) :].any()


def test_rates_too_far_apart_are_an_error():
    with pytest.raises(InputError, match="too far apart"):
        time_stretch(torch.zeros(2, 320), torch.tensor([1.0, 2.0]), 160)
