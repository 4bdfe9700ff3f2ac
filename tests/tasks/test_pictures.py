"""The sketch behind a picture shows what is in the signal, at any length."""

from __future__ import annotations

import numpy as np
import pytest

from harken.tasks.pictures import Sketch


@pytest.mark.parametrize("seconds", [0.01, 1, 30])
def test_a_tone_shows_at_its_frequency_and_level(seconds):
    frames = round(16000 * seconds)
    samples = 0.5 * np.sin(2 * np.pi * 2000 * np.arange(frames) / 16000)[:, None].astype(np.float32)
    sketch = Sketch(frames, 16000)
    list(sketch.through(samples[i : i + 999] for i in range(0, frames, 999)))
    assert len(sketch.power) <= 1200
    middle = sketch.decibels[:, len(sketch.power) // 2]
    assert middle.argmax() == round(2000 / 16000 * 512)
    if seconds >= 1:
        assert middle.max() == pytest.approx(-6, abs=0.2)
        assert np.isfinite(sketch.decibels).all()
        assert (sketch.power.sum(1) > 0).all()  # no empty columns
