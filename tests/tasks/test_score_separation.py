from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harken.data.audio import Audio
from harken.errors import InputError
from harken.tasks.score_separation import draw_separation, score_separation

RATE = 16000
ONE, TWO, NOISE = np.random.default_rng(0).standard_normal((3, 7000)) * 0.1
DECIBELS = ["si_sdr", "sdr", "sir", "sar"]


def audio(samples: np.ndarray, rate: int = RATE) -> Audio:
    return Audio(samples, rate)


def test_leakage_is_seen_by_every_metric_of_its_source_alone():
    report = score_separation([audio(ONE), audio(TWO)], [audio(ONE + 0.3 * TWO), audio(TWO)])
    leaking, clean = report.sources
    for metric in ("ps", "pm", "si_sdr", "sdr", "sir"):
        assert leaking.scores[metric] < clean.scores[metric], metric
    assert leaking.frames == (7000 - 1) // 320
    assert set(report.mean) == set(report.metrics)


def test_the_report_is_json_with_a_list_per_measure():
    report = score_separation([audio(ONE), audio(TWO)], [audio(ONE + NOISE), audio(TWO)], metrics=["ps"])
    written = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert len(written["sources"][0]["ps"]["value"]) == len(written["sources"][0]["ps"]["radius"]) == 21
    assert written["sources"][0]["scores"].keys() == {"ps"}


def test_a_rate_that_is_not_16_khz_is_resampled_for_the_frames_only():
    time = np.arange(24000) / 48000
    tones = [np.sin(2 * np.pi * f * time) * (1.2 + np.sin(9 * time)) for f in (300, 700)]
    report = score_separation([audio(t, 48000) for t in tones], [audio(t, 48000) for t in tones], metrics=["ps", "sdr"])
    assert report.sources[0].frames > 20 and report.sources[0].scores["sdr"] > 40


def test_sources_that_never_meet_have_no_frames():
    one, two = np.zeros((2, 16000))
    one[:7000], two[9000:] = ONE, TWO
    report = score_separation([audio(one), audio(two)], [audio(one), audio(two)], metrics=["ps", "sir"])
    assert math.isnan(report.mean["ps"]) and "no two sources" in report.notes[0]
    assert report.to_dict()["mean"]["ps"] is None


def test_swapped_estimates_are_noted():
    report = score_separation([audio(ONE), audio(TWO)], [audio(TWO), audio(ONE)], metrics=DECIBELS)
    assert "estimate 1 fits reference 2 better" in report.notes[0]


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    ours, theirs = [audio(ONE), audio(TWO)], [audio(ONE + NOISE), audio(TWO)]
    report = score_separation(ours, theirs, metrics=["ps"], plot=tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 5000
    with pytest.raises(InputError, match="ask for one of these"):
        score_separation(ours, theirs, metrics=DECIBELS, plot=tmp_path / "other.png")
    draw_separation(report, tmp_path / "again.png")


@pytest.mark.border
@pytest.mark.parametrize(
    ("references", "estimates", "options", "message"),
    [
        ([ONE], [ONE], {}, "at least 2 sources, got 1"),
        ([ONE, TWO], [ONE], {}, "2 references stand against 1 estimates"),
        ([ONE, TWO], [ONE, TWO[:5000]], {}, "lengths may differ by 5%"),
        ([ONE, TWO * 0], [ONE, TWO], {}, "'source 2' is silent"),
        ([ONE, TWO], [ONE, np.append(TWO[1:], np.nan)], {}, "NaN or infinite"),
        ([ONE, TWO], [ONE, TWO], {"metrics": ["psnr"]}, "no metric of separation named 'psnr'"),
        ([ONE, TWO], [ONE, TWO], {"encoder": "psnr"}, "no encoder named 'psnr'"),
        ([ONE[:3000], TWO[:3000]], [ONE[:3000], TWO[:3000]], {"metrics": ["ps"]}, "too short"),
    ],
)
def test_what_cannot_be_scored_is_one_line(references, estimates, options, message):
    with pytest.raises(InputError, match=message) as caught:
        score_separation([audio(x) for x in references], [audio(x) for x in estimates], **options)
    assert "\n" not in str(caught.value)


def test_files_of_two_rates_are_refused():
    with pytest.raises(InputError, match="resample all to one rate"):
        score_separation([audio(ONE), audio(TWO)], [audio(ONE), audio(TWO, 8000)])
