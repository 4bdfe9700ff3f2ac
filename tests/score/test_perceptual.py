from __future__ import annotations

import sys

import numpy as np
import pytest

from harken.errors import MissingExtraError
from harken.score import estoi, pesq_nb, pesq_wb, stoi

METRICS = [pesq_wb, pesq_nb, stoi, estoi]


@pytest.mark.parametrize("metric", METRICS)
def test_more_noise_scores_lower(metric, clean, noisy):
    scores = [metric(clean, noisy(clean, snr), 16000) for snr in (40, 20, 0)]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 3


def test_equal_signals_score_the_best(clean):
    assert pesq_wb(clean, clean, 16000) == pytest.approx(4.644, abs=1e-3)
    assert pesq_nb(clean, clean, 16000) == pytest.approx(4.549, abs=1e-3)
    assert stoi(clean, clean, 16000) == pytest.approx(1)


def test_pesq_is_that_of_the_package(clean, noisy):
    from pesq import pesq

    degraded = noisy(clean, 10)
    assert pesq_wb(clean, degraded, 16000) == pesq(16000, clean, degraded, "wb")
    assert pesq_nb(clean[::2], degraded[::2], 8000) == pesq(8000, clean[::2], degraded[::2], "nb")


def test_other_rates_are_resampled(speechlike, noisy):
    from harken.data.audio import resample

    clean = speechlike(rate=16000)
    degraded = noisy(clean, 20)
    up = resample(clean, 16000, 48000), resample(degraded, 16000, 48000)
    assert pesq_wb(*up, 48000) == pytest.approx(pesq_wb(clean, degraded, 16000), abs=0.05)
    assert stoi(*up, 48000) == pytest.approx(stoi(clean, degraded, 16000), abs=0.01)


@pytest.mark.parametrize("metric", METRICS)
def test_what_has_no_score_is_nan(metric, clean):
    assert np.isnan(metric(0 * clean, clean, 16000))
    assert np.isnan(metric(clean[4000:7000], clean[4000:7000], 16000))


def test_pesq_of_a_silent_estimate_is_nan(clean):
    assert np.isnan(pesq_wb(clean, 0 * clean, 16000))


def test_pesq_of_many_short_words_does_not_crash():
    # 60 words in 30 s: more than the ITU's program has room for
    time = np.arange(30 * 8000) / 8000
    noise = np.random.default_rng(0).standard_normal(len(time))
    words = 0.1 * noise * (time % 0.5 < 0.25)
    assert 1 < pesq_nb(words, words + 0.001 * noise, 8000) < 4.6


@pytest.mark.parametrize(("package", "metric"), [("pesq", pesq_wb), ("pystoi", stoi)])
def test_a_missing_package_names_its_extra(package, metric, clean, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}': pip install 'harken\[score\]'"):
        metric(clean, clean, 16000)
