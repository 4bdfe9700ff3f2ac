"""Narrow and wide pairs: nothing above the source's band, the rest in its place, and never the same filter."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.audio import Audio, write
from harken.data.mixing import Recordings
from harken.data.narrowing import NarrowConfig, NarrowSpeech, draw_narrow, validation_pairs
from harken.errors import InputError


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Recordings:
    path = tmp_path_factory.mktemp("wide") / "a.wav"
    write(path, Audio(np.random.default_rng(0).normal(0, 0.1, 32000), 16000))
    return Recordings([path], 16000)


def levels(samples, rate=16000):
    """Mean power in dB of four bands: to 2, to 3.2, to 4.4 (a transition), and above 5 kHz."""
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    frequency = np.fft.rfftfreq(len(samples), 1 / rate)
    edges = ((0, 2000), (2000, 2800), (5000, 8000))
    return [10 * np.log10(power[(a <= frequency) & (frequency < b)].mean() + 1e-12) for a, b in edges]


@pytest.mark.parametrize("seed", range(12))
def test_every_filter_keeps_the_low_band_and_takes_the_high_one(seed):
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.1, 16000).astype(np.float32)
    narrow = draw_narrow(noise, 16000, 8000, rng)
    before, after = levels(noise), levels(narrow)
    assert len(narrow) == len(noise)
    assert after[0] == pytest.approx(before[0], abs=1.1)
    assert after[1] == pytest.approx(before[1], abs=3)
    assert after[2] < before[2] - 25


def test_an_item_is_the_same_whoever_asks(wide):
    one, two = (NarrowSpeech(wide, length=9, seed=3) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one[5], two[5], strict=True))
    assert not np.array_equal(one[5][0], one[6][0])
    assert one[0][0].shape == one[0][1].shape == (8000,)
    assert one[0][0].dtype == one[0][1].dtype == np.float32


def test_narrow_and_wide_lie_on_each_other(wide):
    narrow, original = NarrowSpeech(wide, NarrowConfig(filters="soxr"), length=1)[0]
    spectra = [np.fft.rfft(part * np.hanning(8000))[:1500] for part in (narrow, original)]
    assert np.abs(spectra[0] - spectra[1]).max() < 0.03 * np.abs(spectra[1]).max()


def test_validation_takes_the_source_rates_in_turn(wide):
    pairs = validation_pairs(wide, NarrowConfig(source_rates=(4000, 8000)), 4, 0.5)
    shares = [levels(narrow)[1] - levels(original)[1] for narrow, original in pairs]
    assert [share > -20 for share in shares] == [False, True, False, True]


@pytest.mark.parametrize(
    "wrong", [{"source_rates": (16000,)}, {"source_rates": ()}, {"filters": "x"}, {"gain": (1, 2)}]
)
def test_pairs_that_cannot_be_made_are_refused(wrong):
    with pytest.raises(InputError):
        NarrowConfig(**wrong)
