from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import InputError
from harken.score import METRICS, composite, find_delay, pesq_nb, pesq_wb, score_enhancement, si_sdr

NOISE = np.random.default_rng(0).standard_normal(16000)


def test_all_metrics_by_default_and_each_better_for_less_noise(clean, noisy):
    better, worse = (score_enhancement(clean, noisy(clean, snr), 16000) for snr in (20, 5))
    assert list(better) == list(worse) == list(METRICS)
    for name, metric in METRICS.items():
        assert (better[name] > worse[name]) is metric.higher_is_better


def test_only_the_metrics_asked_for_in_that_order():
    assert list(score_enhancement(NOISE, NOISE, 16000, ["lsd", "si_sdr", "lsd"])) == ["lsd", "si_sdr"]


def test_composites_take_wide_band_pesq_and_narrow_band_at_8_khz(speechlike, noisy):
    for rate, metric in ((16000, pesq_wb), (8000, pesq_nb)):
        pair = speechlike(rate=rate), noisy(speechlike(rate=rate), 20)
        expected = composite(*pair, rate, pesq=metric(*pair, rate))
        assert score_enhancement(*pair, rate, ["csig", "cbak", "covl"]) == expected._asdict()


def test_pesq_runs_once_for_itself_and_the_composites(clean, monkeypatch):
    calls = []
    monkeypatch.setattr("pesq.pesq", lambda *_: calls.append(1) or 3.0)
    assert score_enhancement(clean, clean, 16000, ["csig", "pesq_wb", "cbak", "covl"])["pesq_wb"] == 3.0
    assert len(calls) == 1


def test_tensors_are_welcome():
    pair = torch.from_numpy(NOISE).float(), torch.from_numpy(0.9 * NOISE).float().requires_grad_()
    assert score_enhancement(*pair, 16000, ["segsnr"])["segsnr"] == pytest.approx(20, abs=1e-3)


def test_a_silent_estimate_keeps_the_metrics_it_can_have(clean):
    scores = score_enhancement(clean, 0 * clean, 16000)
    assert {name for name, value in scores.items() if np.isnan(value)} == {
        "pesq_wb", "pesq_nb", "si_sdr", "csig", "cbak", "covl",
    }  # fmt: skip
    assert scores["segsnr"] == pytest.approx(0, abs=1e-6)


def test_a_few_samples_more_or_less_are_cut():
    assert score_enhancement(NOISE, NOISE[:15300], 16000, ["segsnr"]) == {"segsnr": 35}


@pytest.mark.parametrize(
    ("reference", "estimate", "message"),
    [
        (NOISE, NOISE[:15000], "16000 samples and the estimate 15000"),
        (0 * NOISE, NOISE, "the reference is silent"),
        (NOISE[:3000], NOISE[:3000], "0.188 s is too short"),
        (NOISE[:0], NOISE[:0], "the reference is empty"),
        (NOISE, np.where(np.arange(16000) == 7, np.nan, NOISE), "the estimate holds NaN"),
        (NOISE, NOISE + np.inf, "the estimate holds NaN or infinite"),
        (NOISE.astype(np.int16), NOISE, "floating-point samples .* got a reference of int16"),
        (NOISE[:, None], NOISE, r"of shape \(samples,\), got \(16000, 1\)"),
    ],
)
def test_what_cannot_be_scored_says_why(reference, estimate, message):
    with pytest.raises(InputError, match=message):
        score_enhancement(reference, estimate, 16000, ["si_sdr"])


@pytest.mark.parametrize("metrics", [["psnr"], []])
def test_an_unknown_metric_names_the_known_ones(metrics):
    with pytest.raises(InputError, match="choose among pesq_wb, pesq_nb, stoi"):
        score_enhancement(NOISE, NOISE, 16000, metrics)


@given(delay=st.integers(-400, 400), gain=st.sampled_from([-2.0, 0.1, 1.0]))
@settings(max_examples=20, deadline=None)
def test_any_delay_is_found_whatever_the_polarity(delay, gain):
    source = NOISE[:9000]
    reference, late = source[500:8500], source[500 - delay : 8500 - delay]
    assert find_delay(reference, gain * late, 16000) == delay


def test_a_delay_is_found_across_blocks_of_a_long_signal():
    source = np.random.default_rng(0).standard_normal(300_000)
    source[: 1 << 17] = 0  # nothing to hear in the first block
    assert find_delay(source[100:], source[:-100], 16000) == 100


def test_alignment_mends_a_delay_and_reports_it():
    estimate = np.concatenate((np.zeros(320), NOISE[:-320]))
    assert si_sdr(NOISE, estimate) < -10
    scores = score_enhancement(NOISE, estimate, 16000, ["si_sdr"], align=True)
    assert scores["delay_ms"] == 20 and scores["si_sdr"] > 90
