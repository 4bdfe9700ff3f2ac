"""Levels are those of the whole, however it is cut."""

from __future__ import annotations

import numpy as np
import pytest

from harken.tasks.levels import LevelMeter


def test_levels_do_not_depend_on_the_cut():
    samples = np.random.default_rng(0).normal(0, 0.1, (16000, 2)).astype(np.float32)
    whole, cut = LevelMeter(2, 16000), LevelMeter(2, 16000)
    whole.add(samples)
    for start in range(0, 16000, 111):
        cut.add(samples[start : start + 111])
    assert np.allclose(whole.rms, np.sqrt((samples**2).mean(0)), rtol=1e-4)
    assert (whole.dbfs, whole.quiet_dbfs) == pytest.approx((cut.dbfs, cut.quiet_dbfs))


def test_the_quiet_tenth_is_the_floor_between_the_words():
    level = np.where(np.arange(16000) % 4000 < 2000, 0.1, 0.001)  # -20 and -60 dBFS
    meter = LevelMeter(1, 16000)
    meter.add(level[:, None].astype(np.float32))
    assert meter.quiet_dbfs == pytest.approx(-60, abs=0.2)


def test_silence_has_the_lowest_level_not_minus_infinity():
    meter = LevelMeter(1, 16000)
    meter.add(np.zeros((1000, 1), np.float32))
    assert meter.dbfs == meter.quiet_dbfs == -120
