"""One recording: the same kind, rate, length and channels come back, with only the model in between."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import harken
from harken.data.audio import Audio, write
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.tasks.enhance import enhance


def tone(rate, seconds, frequency=440.0, channels=1):
    time = np.arange(round(seconds * rate)) / rate
    fade = np.minimum(1, np.minimum(time, time[::-1]) / 0.05)  # no clicks at the ends, which have no band limit
    return np.repeat((0.3 * fade * np.sin(2 * np.pi * frequency * time))[:, None], channels, 1).astype(np.float32)


def test_chunked_identity_is_exact_at_the_models_rate(identity):
    samples = np.random.default_rng(0).normal(0, 0.1, (16000 * 7 + 13, 2)).astype(np.float32)
    assert np.abs(enhance(samples, rate=16000, chunk=2, overlap=0.5) - samples).max() < 1e-6
    assert len(identity.shapes) > 3


@pytest.mark.parametrize("rate", [8000, 11025, 44100, 48000, 192000])
def test_identity_at_other_rates_changes_nothing_below_the_band_edge(identity, rate):
    samples = tone(rate, 3.21, frequency=3000.0)
    enhanced = enhance(samples, rate=rate, chunk=2, overlap=0.5)
    assert enhanced.shape == samples.shape
    assert np.abs(enhanced - samples).max() < 1e-4


def test_nothing_above_the_models_band_is_kept(identity):
    enhanced = enhance(tone(48000, 1.0, frequency=12000.0), rate=48000)
    assert np.sqrt((enhanced**2).mean()) < 1e-3 * 0.2


def test_every_chunk_sees_the_level_of_the_whole_recording_per_channel(identity):
    samples = np.random.default_rng(0).normal(0, [0.1, 0.01], (16000 * 5, 2)).astype(np.float32)
    samples[:40000] *= 0.1
    enhance(samples, rate=16000, chunk=2, overlap=0.5)
    expected = np.sqrt((samples.astype(np.float64) ** 2).mean(0))
    assert all(np.allclose(level.numpy(), expected, rtol=1e-4) for level in identity.levels)


def test_a_recording_that_fits_in_one_chunk_is_seen_whole_once(identity):
    enhance(tone(16000, 1.9), rate=16000, chunk=2)
    enhance(tone(16000, 5.0), rate=16000, chunk=None)
    assert identity.shapes == [(1, 30400), (1, 80000)]


def test_the_same_kind_comes_back(identity, tmp_path):
    samples = tone(16000, 0.5, channels=2)
    write(tmp_path / "x.wav", Audio(samples, 16000), subtype="FLOAT")
    for out in (enhance(tmp_path / "x.wav"), enhance(str(tmp_path / "x.wav")), enhance(Audio(samples, 16000))):
        assert isinstance(out, Audio)
        assert np.allclose(out.samples, samples, atol=1e-6)
    assert enhance(samples[:, 0].astype(np.float64), rate=16000).dtype == np.float64
    batch = torch.from_numpy(samples.T.copy())
    assert torch.allclose(enhance(batch, rate=16000), batch, atol=1e-6)
    assert enhance(batch[0], rate=16000).shape == (8000,)
    assert harken.task("enhance") is enhance


@pytest.mark.parametrize("frames", [1, 50, 401])
@pytest.mark.parametrize("rate", [8000, 16000, 192000])
def test_the_shortest_recordings_work(identity, frames, rate):
    out = enhance(np.full(frames, 0.1, np.float32), rate=rate)
    assert out.shape == (frames,)
    assert np.isfinite(out).all()
    assert all(shape[1] >= 4000 for shape in identity.shapes)  # what the model sees is never too short for it


def test_silence_stays_silence_and_never_meets_the_model(identity):
    samples = np.zeros((16000, 2), np.float32)
    samples[:, 1] = 0.1
    out = enhance(samples, rate=16000)
    assert not out[:, 0].any()
    assert identity.shapes == [(1, 16000)]
    assert not enhance(np.zeros(100, np.float32), rate=16000).any()


def test_many_channels_are_given_to_the_model_a_few_at_a_time(identity):
    samples = np.random.default_rng(0).normal(0, 0.1, (4000, 9)).astype(np.float32)
    assert np.allclose(enhance(samples, rate=16000), samples, atol=1e-6)
    assert [shape[0] for shape in identity.shapes] == [4, 4, 1]


def test_progress_reaches_the_end(identity):
    seen = []
    enhance(tone(16000, 5.0), rate=16000, chunk=2, progress=lambda name, done, total: seen.append((done, total)))
    assert seen[0] == (0.0, 5.0)
    assert seen[-1] == (5.0, 5.0)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": np.zeros(0, np.float32), "rate": 16000}, "holds no samples"),
        ({"source": np.zeros(9, np.float32)}, "does not say its rate"),
        ({"source": np.zeros(9, np.int16), "rate": 16000}, "floats"),
        ({"source": np.zeros((2, 2, 2)), "rate": 16000}, "shape"),
        ({"source": "x.wav", "rate": 16000}, "a file says its own"),
        ({"source": np.array([0.0, np.nan, np.inf]), "rate": 8000}, "2 NaN or infinite samples, the first at 0.000 s"),
        ({"source": np.zeros(9), "rate": 16000, "chunk": 0.1}, "between 1 and 3600"),
        ({"source": np.zeros(9), "rate": 16000, "chunk": 2, "overlap": 1.5}, "half a chunk"),
        ({"source": np.zeros(9), "rate": 16000, "device": "tpu9"}, "no device named"),
        ({"source": np.zeros(9), "rate": 16000, "device": "meta"}, "not available here"),
    ],
)
def test_mistakes_are_told_in_one_line(identity, arguments, message):
    with pytest.raises(InputError, match=message):
        enhance(**arguments)


def test_a_model_that_answers_nan_is_not_believed(identity):
    identity.gain = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        enhance(tone(16000, 0.5), rate=16000)


def test_a_model_that_is_no_enhancer_is_refused():
    with pytest.raises(CapabilityError, match="not an enhancer"):
        enhance(tone(16000, 0.5), rate=16000, model=torch.nn.Identity())


def test_unknown_tasks_are_named():
    with pytest.raises(InputError, match="no task named 'sing'"):
        harken.task("sing")


@pytest.mark.parametrize("model_rate", [8000, 48000])
def test_a_model_of_another_rate_hears_the_recording_at_its_own(identity, model_rate):
    """No mismatch can happen: whatever rate the weights were trained at, length and rate of the recording stay."""
    identity.sample_rate = model_rate
    samples = np.sin(2 * np.pi * 440 * np.arange(16000) / 16000).astype(np.float32)
    result = enhance(samples, rate=16000)
    assert identity.shapes == [(1, model_rate)]
    np.testing.assert_allclose(result[800:-800], samples[800:-800], atol=1e-3)
