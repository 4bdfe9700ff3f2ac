from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import solve_toeplitz, toeplitz

from harken.score import composite, llr, weighted_spectral_slope
from harken.score.opinion import _slope_weights, autocorrelation, levinson
from harken.score.waveform import framewise


def test_levinson_solves_the_normal_equations(clean):
    lags = autocorrelation(clean[8000:9600].reshape(4, 400), 16)
    filters, errors = levinson(lags)
    for row, coefficients, error in zip(lags, filters, errors, strict=True):
        assert np.allclose(coefficients[1:], -solve_toeplitz(row[:-1], row[1:]), rtol=1e-6)
        assert error == pytest.approx(coefficients @ toeplitz(row) @ coefficients, rel=1e-6)


def test_levinson_survives_silence_and_a_constant():
    filters, errors = levinson(autocorrelation(np.stack((np.zeros(480), np.ones(480))), 16))
    assert np.isfinite(filters).all() and (errors > 0).all()


def test_llr_equals_its_definition_frame_by_frame(clean, noisy):
    estimate, order, window = noisy(clean, 10), 16, np.hanning(482)[1:-1]
    values = []
    for start in range(0, 120 * ((len(clean) - 480) // 120), 120):
        matrix = toeplitz(autocorrelation((clean[start : start + 480] * window)[None], order)[0])
        a = levinson(autocorrelation((clean[start : start + 480] * window)[None], order))[0][0]
        b = levinson(autocorrelation((estimate[start : start + 480] * window)[None], order))[0][0]
        values.append(np.log((b @ matrix @ b) / (a @ matrix @ a)))
    expected = np.mean(sorted(values)[: round(0.95 * len(values))])
    assert llr(clean, estimate, 16000) == pytest.approx(expected, rel=1e-6)


def test_llr_hears_the_envelope_and_not_the_gain(clean, noisy):
    assert llr(clean, clean, 16000) == pytest.approx(0, abs=1e-9)
    assert llr(clean, 0.1 * noisy(clean, 10), 16000) == pytest.approx(llr(clean, noisy(clean, 10), 16000), rel=1e-6)


def test_llr_leaves_out_digital_silence(clean, noisy):
    paused = np.concatenate((clean, np.zeros(16000)))
    estimate = np.concatenate((noisy(clean, 10), noisy(clean, 10)[:16000]))
    assert llr(paused, estimate, 16000) < 2 * llr(clean, noisy(clean, 10), 16000)
    assert np.isnan(llr(0 * clean, clean, 16000))


def test_slope_weights_equal_a_search_for_the_nearest_peak():
    levels = np.random.default_rng(0).standard_normal((20, 25)) * 10
    expected = np.empty((20, 24))
    for frame, row in enumerate(levels):
        slopes = np.diff(row)
        for band in range(24):
            at = band
            if slopes[band] > 0:
                while at < 24 and slopes[at] > 0:
                    at += 1
                peak = row[at - 1]
            else:
                while at >= 0 and slopes[at] <= 0:
                    at -= 1
                peak = row[at + 1]
            expected[frame, band] = 20 / (20 + row.max() - row[band]) / (1 + peak - row[band])
    assert np.allclose(_slope_weights(levels), expected)


def test_spectral_slope_is_zero_for_equal_signals_and_grows_with_noise(clean, noisy):
    distances = [weighted_spectral_slope(clean, noisy(clean, snr), 16000) for snr in (30, 15, 0)]
    assert weighted_spectral_slope(clean, clean, 16000) == 0
    assert distances == sorted(distances) and distances[0] > 0


def test_composite_falls_with_noise(clean, noisy):
    # PESQ is given, so that the other terms show
    scores = [composite(clean, noisy(clean, snr), 16000, pesq=2.5) for snr in (40, 20, 0)]
    for better, worse in pairwise(scores):
        assert all(a > b for a, b in zip(better, worse, strict=True))


@pytest.mark.parametrize(("pesq", "limit"), [(50.0, 5), (-50.0, 1)])
def test_composite_stays_on_its_scale(clean, pesq, limit):
    assert composite(clean, clean, 16000, pesq=pesq) == (limit, limit, limit)


def test_composite_without_a_pesq_score_is_nan(clean):
    assert np.isnan(composite(clean, 0 * clean, 16000)).all()


def test_frames_of_a_long_signal_are_the_same_in_blocks():
    signal = np.random.default_rng(0).standard_normal(20000)  # 2852 frames of 30 samples: two blocks
    values = framewise(lambda ours, theirs: np.square(ours).sum(1), signal, signal, 1000)
    window = np.hanning(32)[1:-1]
    assert len(values) == (20000 - 30) // 7
    assert values[2500] == pytest.approx(np.sum((signal[2500 * 7 : 2500 * 7 + 30] * window) ** 2))
