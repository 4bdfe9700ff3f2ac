"""Noisy and clean pairs: the same wherever they are made, and as they were asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from harken.data.audio import Audio, write
from harken.data.mixing import MixConfig, NoisySpeech, Recordings, active_rms, audio_files, low_pass, noise_gain, rms
from harken.errors import InputError

RATE = 16000
PLAIN = MixConfig(
    seconds=0.5,
    second_noise=0.0,
    tilt=0.0,
    speech_tilt=0.0,
    speed=(1.0, 1.0),
    band_limit=0.0,
    clip=0.0,
    synthetic=0.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    for name in ("clean/deep", "noise", "silence"):
        (folder / name).mkdir(parents=True)
    time = np.arange(RATE) / RATE
    for i in range(3):
        voice = np.sin(2 * np.pi * 150 * (i + 1) * time) * (np.sin(2 * np.pi * 2 * time) > 0)
        write(folder / "clean" / "deep" / f"{i}.wav", Audio(0.3 * voice, RATE))
    write(folder / "noise" / "hiss.wav", Audio(0.1 * rng.standard_normal((3000, 2)), 8000))
    write(folder / "silence" / "none.wav", Audio(np.zeros(1000), RATE))
    return folder


@pytest.fixture(scope="module")
def clean(folder) -> Recordings:
    return Recordings([folder / "clean"], RATE)


@pytest.fixture(scope="module")
def noise(folder) -> Recordings:
    return Recordings([folder / "noise"], RATE)


def test_item_i_is_the_same_in_every_instance_order_and_process(clean, noise):
    config = MixConfig(seconds=0.25)
    one, other = (NoisySpeech(clean, noise, config, length=length, seed=7) for length in (6, 600))
    expected = [one[i] for i in range(6)]
    backwards = [other[i] for i in reversed(range(6))][::-1]
    for (noisy, speech), (again, same) in zip(expected, backwards, strict=True):
        assert np.array_equal(noisy, again)
        assert np.array_equal(speech, same)
    for i, (noisy, speech) in enumerate(DataLoader(one, batch_size=1, num_workers=2)):
        assert np.array_equal(noisy[0], expected[i][0])
        assert np.array_equal(speech[0], expected[i][1])


def test_another_seed_or_index_is_another_item(clean, noise):
    data, other = (NoisySpeech(clean, noise, PLAIN, length=9, seed=seed) for seed in (0, 1))
    assert not np.array_equal(data[0][0], data[1][0])
    assert not np.array_equal(data[0][0], other[0][0])


@pytest.mark.parametrize("snr", [-5.0, 0.0, 10.0, 30.0])
@pytest.mark.parametrize("babble", [0.0, 1.0])
def test_the_ratio_of_speech_to_noise_is_as_asked(clean, noise, snr, babble):
    data = NoisySpeech(clean, noise, replace(PLAIN, snr=(snr, snr), babble=babble), length=5)
    for noisy, speech in (data[i] for i in range(5)):
        ratio = 20 * np.log10(active_rms(speech, RATE) / rms(noisy - speech))
        assert ratio == pytest.approx(snr, abs=0.5)


def test_items_are_finite_float32_of_one_length_and_within_full_scale(clean, noise):
    rooms = [np.exp(-np.arange(800) / 100).astype(np.float32)]
    wild = MixConfig(seconds=0.25, clip=0.5, band_limit=0.5, second_noise=1.0, reverb=0.5)
    data = NoisySpeech(clean, noise, wild, length=40, rooms=rooms)
    for noisy, speech in (data[i] for i in range(40)):
        assert noisy.shape == speech.shape == (4000,)
        assert noisy.dtype == speech.dtype == np.float32
        assert np.isfinite(noisy).all() and np.isfinite(speech).all()
        assert 0.01 < np.abs(noisy).max() <= 1
        assert speech.any()


def test_without_noise_it_is_babble_or_synthetic(clean):
    data = NoisySpeech(clean, None, replace(PLAIN, babble=0.0), length=3)
    assert all(rms(noisy - speech) > 0 for noisy, speech in (data[i] for i in range(3)))


def test_clipping_touches_the_noisy_side_alone(clean, noise):
    hard, soft = (NoisySpeech(clean, noise, replace(PLAIN, clip=clip), length=2)[1] for clip in (1.0, 0.0))
    assert np.array_equal(hard[1], soft[1])
    assert np.abs(hard[0]).max() < 0.95 * np.abs(soft[0]).max()


def test_band_limiting_touches_both_sides(clean, noise):
    for signal in NoisySpeech(clean, noise, replace(PLAIN, band_limit=1.0, snr=(0.0, 0.0)), length=2)[1]:
        power = np.abs(np.fft.rfft(signal)) ** 2
        assert power[round(0.95 * len(power)) :].sum() < 1e-6 * power.sum()


def test_in_a_room_the_target_keeps_the_early_reflections_only(clean, noise):
    room = np.zeros(4000, dtype=np.float32)
    room[[0, 400, 3000]] = 1, 0.5, 0.8  # direct, at 25 ms, at 190 ms
    data = NoisySpeech(clean, noise, replace(PLAIN, reverb=1.0, snr=(90.0, 90.0)), length=1, rooms=[room])
    noisy, target = data[0]
    late = noisy - target
    assert rms(late[:3000]) < 1e-3 * rms(target)
    assert rms(late[3000:]) > 0.1 * rms(target)


def test_recordings_are_found_in_depth_by_name_made_mono_resampled_and_brought_to_one_peak(clean, noise):
    assert [Path(name).name for name in clean.names] == ["0.wav", "1.wav", "2.wav"]
    assert noise.seconds == pytest.approx(3000 / 8000, abs=0.01)
    for recordings in (clean, noise):
        crop = recordings.crop(RATE, np.random.default_rng(0))
        assert crop.dtype == np.float32
        assert 0.5 < np.abs(crop).max() <= 1


def test_a_single_file_may_be_given(folder):
    assert len(Recordings([folder / "clean/deep/0.wav", folder / "noise"], RATE)) == 2


def test_a_short_recording_repeats(noise):
    crop = noise.crop(3 * RATE, np.random.default_rng(0))
    period = round(noise.seconds * RATE)
    assert np.array_equal(crop[:1000], crop[period : period + 1000])


def test_silence_missing_and_empty_folders_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="only silence"):
        Recordings([folder / "silence"], RATE)
    with pytest.raises(InputError, match="no folder"):
        Recordings([tmp_path / "nowhere"], RATE)
    with pytest.raises(InputError, match="no audio files"):
        Recordings([tmp_path], RATE)
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="broken"):
        Recordings([tmp_path], RATE)
    assert audio_files(tmp_path) == [tmp_path / "broken.wav"]


@pytest.mark.parametrize(
    "options",
    [
        {"snr": (10.0, 0.0)},
        {"snr": (0.0, float("nan"))},
        {"talkers": (5, 3)},
        {"talkers": (0, 3)},
        {"speed": (0.0, 1.0)},
        {"babble": 1.5},
        {"reverb": -0.1},
        {"seconds": 0.0},
        {"sample_rate": 0},
    ],
)
def test_impossible_mixtures_are_refused(options):
    with pytest.raises(InputError):
        MixConfig(**options)


def test_reverb_needs_rooms_and_an_index_must_be_inside(clean, noise):
    with pytest.raises(InputError, match=r"harken\.data\.rooms"):
        NoisySpeech(clean, noise, replace(PLAIN, reverb=0.5), length=1)
    with pytest.raises(IndexError):
        NoisySpeech(clean, noise, PLAIN, length=1)[1]


def test_the_active_level_does_not_count_pauses():
    burst = np.concatenate((np.ones(1600), np.zeros(14400))).astype(np.float32)
    assert active_rms(burst, RATE) == pytest.approx(1)
    assert rms(burst) == pytest.approx(0.1**0.5)
    assert noise_gain(burst, np.full(100, 0.5, np.float32), 20.0, RATE) == pytest.approx(0.2)
    assert active_rms(np.ones(5, np.float32), RATE) == pytest.approx(1)


def test_a_low_pass_keeps_what_is_below():
    time = np.arange(RATE) / RATE
    low, high = (np.sin(2 * np.pi * f * time).astype(np.float32) for f in (1000, 6000))
    assert low_pass(low + high, 4000, RATE) == pytest.approx(low, abs=1e-4)


@pytest.mark.parametrize(("place", "wet"), [("reverb", "speech"), ("noise_reverb", "noise")])
def test_speech_and_noise_go_into_rooms_apart(clean, noise, place, wet):
    rooms = [np.exp(-np.arange(1600) / 300).astype(np.float32)]
    plain, placed = (
        NoisySpeech(clean, noise, replace(PLAIN, **{place: share}), length=2, rooms=rooms)[1] for share in (0.0, 1.0)
    )
    same_shape = np.corrcoef(plain[1], placed[1])[0, 1] > 0.9999
    assert same_shape == (wet == "noise")


def test_a_tilt_of_the_speech_tilts_the_target_too(clean, noise):
    noisy, speech = NoisySpeech(clean, noise, replace(PLAIN, speech_tilt=3.0, snr=(90.0, 90.0)), length=2)[1]
    assert np.corrcoef(noisy, speech)[0, 1] > 0.9999
