"""Resampling as sound arrives: aligned, as long as it should be, without aliases, in pieces as in one."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.live_resampling import LiveResampler


def through(samples, source, target, size):
    live = LiveResampler(source, target, samples.shape[1])
    parts = [live.push(samples[i : i + size]) for i in range(0, len(samples), size)]
    return np.concatenate((*parts, live.flush()))


def tone(hertz, rate, seconds=0.2):
    return np.sin(2 * np.pi * hertz * np.arange(round(rate * seconds)) / rate).astype(np.float32)[:, None]


@pytest.mark.parametrize(("source", "target"), [(48000, 16000), (16000, 48000), (44100, 16000), (8000, 16000)])
def test_a_tone_stays_where_it_was(source, target):
    made = through(tone(1000, source), source, target, 97)
    assert len(made) == round(0.2 * target)
    np.testing.assert_allclose(made[400:-400], tone(1000, target)[400:-400], atol=2e-3)


def test_what_the_lower_rate_cannot_hold_is_gone():
    assert np.abs(through(tone(11000, 48000), 48000, 16000, 384)[100:-100]).max() < 2e-3


def test_pieces_are_the_whole():
    noise = np.random.default_rng(0).standard_normal((3000, 2)).astype(np.float32)
    np.testing.assert_allclose(through(noise, 44100, 16000, 61), through(noise, 44100, 16000, 3000), atol=1e-6)
