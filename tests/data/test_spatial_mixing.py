"""Binaural mixtures: repeatable, placed where they should be, and made of the talkers that they name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harken.data.audio import Audio, write
from harken.data.hrtf import HRIRs
from harken.data.spatial_mixing import Heads, SceneMaker, SpatialConfig, Talkers, place
from harken.errors import InputError
from harken.score.binaural import ild, itd

RATE = 16000
CONFIG = SpatialConfig(seconds=0.5, headless=0.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three talkers of one clip each, as LibriSpeech names them, and one with a folder of two clips."""
    root = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    (root / "anna").mkdir()
    for name in ("11-1-0", "12-1-0", "13-1-0", "anna/one", "anna/two"):
        seconds = 1.5 if "/" in name else 6.4
        write(root / f"{name}.wav", Audio(0.1 * rng.standard_normal(round(seconds * RATE)), RATE))
    return root


def heads(taps=24):
    """A head without a shadow: front, and left, which the right ear hears 8 samples later and at half the level."""
    responses = np.zeros((2, 2, taps), np.float32)
    responses[0, :, 0] = responses[1, 0, 0] = 1
    responses[1, 1, 8] = 0.5
    return Heads.of([HRIRs(responses, np.array([[0.0, 0.0], [90.0, 0.0]]), RATE)], RATE)


def maker(folder, **changes):
    return SceneMaker(Talkers([folder], RATE), None, heads(), replace(CONFIG, **changes), seed=1)


def test_talkers_are_told_by_name_or_folder_and_long_clips_are_cut(folder):
    talkers = Talkers([folder], RATE)
    assert {name.rsplit("/")[-1] for name in talkers.names} == {"anna", "11", "12", "13"}
    assert sorted(talkers.pieces(i) for i in range(4)) == [2, 2, 2, 2]
    assert talkers.seconds == pytest.approx(3 * 6.4 + 3.0, abs=0.01)
    first, second = talkers.two_of(0, np.random.default_rng(0))
    assert first != second


def test_speed_changes_length_and_pitch(folder):
    talkers = Talkers([folder], RATE)
    assert len(talkers.clip(0, 0, 2.0)) == pytest.approx(len(talkers.clip(0, 0)) / 2, abs=1)


def test_the_same_number_is_the_same_scene(folder):
    one, other = maker(folder).scene(3), maker(folder).scene(3)
    assert np.array_equal(one.mixture, other.mixture) and one.talker == other.talker
    assert not np.array_equal(one.mixture, maker(folder).scene(4).mixture)


def test_a_scene_says_who_is_in_it(folder):
    scene = maker(folder, talkers=(3, 3)).scene(0)
    assert scene.mixture.shape == scene.target.shape == (2, 8000)
    assert len({scene.talker, *scene.others}) == 3
    assert scene.utterance != scene.example


def test_who_is_looked_at_is_in_front(folder):
    for number in range(6):
        target = maker(folder).scene(number, in_front=True).target
        np.testing.assert_allclose(target[0], target[1], atol=1e-5)


def test_the_mixture_has_the_level_asked_for(folder):
    mixture = maker(folder, loudness=(-20.0, -20.0)).scene(0).mixture
    assert np.sqrt(np.mean(mixture**2)) == pytest.approx(0.1, rel=1e-3)


def test_a_quiet_scene_is_its_target(folder):
    scene = maker(folder).quiet().scene(0)
    assert np.mean((scene.mixture - scene.target) ** 2) < 1e-3 * np.mean(scene.target**2)


def test_without_a_head_both_ears_hear_the_same(folder):
    for scene in (
        maker(folder, headless=1.0).scene(0),
        SceneMaker(Talkers([folder], RATE), None, None, CONFIG).scene(0),
    ):
        np.testing.assert_array_equal(scene.mixture[0], scene.mixture[1])


def test_a_place_to_the_left_is_heard_to_the_left():
    made = place(np.random.default_rng(0).standard_normal(8000).astype(np.float32), heads().responses[0][1])
    assert ild(made) == pytest.approx(6.02, abs=0.1)
    assert itd(made, RATE) == pytest.approx(8 / RATE, abs=5e-6)


def test_heads_at_other_rates_are_as_far_apart():
    responses = np.zeros((1, 2, 96), np.float32)
    responses[0, 0, 20] = responses[0, 1, 44] = 1
    made = Heads.of([HRIRs(responses, np.zeros((1, 2)), 48000)], RATE)
    assert itd(made.responses[0][0].repeat(1, -1), RATE) == pytest.approx(24 / 48000, abs=2e-5)
    assert made.front(0) == 0


def test_one_talker_is_too_few(tmp_path):
    write(tmp_path / "1-1-1.wav", Audio(0.1 * np.ones(RATE * 7), RATE))
    with pytest.raises(InputError, match="speaker-chapter-number"):
        Talkers([tmp_path], RATE)


@pytest.mark.parametrize(
    "wrong",
    [{"seconds": 0}, {"talkers": (0, 1)}, {"snr": (3.0, 1.0)}, {"late": 2.0}, {"speeds": ()}, {"speeds": (9.0,)}],
)
def test_impossible_mixtures_are_refused(wrong):
    with pytest.raises(InputError):
        replace(CONFIG, **wrong)
