"""Spectra are SciPy's, and coherence is what theory says of chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from harken.errors import InputError
from harken.signal.cross_spectra import (
    circularly_shifted,
    coherence,
    coherence_by_chance,
    independent_segments,
    phase_shuffled,
    segment_spectra,
    short_time_spectra,
    without_bias,
)


@pytest.mark.parametrize("samples", [450, 400, 401])
def test_the_transform_is_scipys(samples, seed):
    x = torch.randn(2, samples, generator=seed, dtype=torch.float64)
    expected = signal.stft(x.numpy(), nperseg=100, noverlap=60, window="hann")[2]
    np.testing.assert_allclose(short_time_spectra(x, 100, 40).numpy(), expected, atol=1e-12)


def test_welch_and_coherence_are_scipys(seed):
    x, y = torch.randn(2, 1000, generator=seed, dtype=torch.float64) + 3
    y = y + x.roll(3)
    expected = signal.coherence(x.numpy(), y.numpy(), nperseg=100, noverlap=50)[1]
    found = coherence(*(segment_spectra(part[None], 100, 50)[0] for part in (x, y)))
    np.testing.assert_allclose(found[1:].numpy(), expected[1:], atol=1e-10)  # bin 0 holds rounding alone


def test_chance_is_as_large_as_theory_says(seed):
    x = torch.randn(2, 300, 1000, generator=seed, dtype=torch.float64)
    spectra = segment_spectra(x, 100, 50)
    found = coherence(*spectra)[:, 5:45]
    count = independent_segments(19, 100, 50)
    assert found.mean() == pytest.approx(1 / count, rel=0.05)
    assert (found > coherence_by_chance(count)).double().mean() == pytest.approx(0.05, abs=0.01)
    assert without_bias(found, count).mean() == pytest.approx(0, abs=0.005)
    assert coherence_by_chance(1.0) == 1


def test_tapers_count_as_segments(seed):
    spectra = segment_spectra(torch.randn(3, 250, generator=seed), 100, 100, tapers=5)
    assert spectra.shape == (3, 51, 10)
    with pytest.raises(InputError, match="tapers"):
        segment_spectra(torch.zeros(250), 100, 100, tapers=80)
    with pytest.raises(InputError, match="less than a segment"):
        segment_spectra(torch.zeros(50), 100, 100)


@pytest.mark.parametrize("make", [phase_shuffled, circularly_shifted])
def test_surrogates_keep_spectra_and_what_channels_share(make, seed):
    x = torch.randn(4, 2, 100, generator=seed, dtype=torch.float64)
    moved = make(x, 3, seed)
    assert moved.shape == (3, 4, 2, 100)
    torch.testing.assert_close(torch.fft.rfft(moved).abs(), torch.fft.rfft(x).abs().expand(3, 4, 2, 51))
    between = torch.fft.rfft(moved)[..., 0, :] * torch.fft.rfft(moved)[..., 1, :].conj()
    own = torch.fft.rfft(x)[:, 0] * torch.fft.rfft(x)[:, 1].conj()
    torch.testing.assert_close(between[..., 1:-1], own[:, 1:-1].expand(3, 4, 49))
    assert not torch.allclose(moved, x.expand_as(moved))


def test_a_shift_that_does_not_fit_is_refused(seed):
    with pytest.raises(InputError, match="longer trials"):
        circularly_shifted(torch.zeros(1, 1, 10), 2, seed, least=6)
