"""Envelope following: the arithmetic as published, the estimator honest about chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from harken.errors import CheckpointError, InputError
from harken.models.brain.efr import (
    channel_pairs,
    circular_mean,
    clean_eeg,
    pair_spectra,
    published_peaks,
    resample_envelope,
    spectral_ratio,
    speech_envelope,
)
from harken.models.brain.envelope_following import EnvelopeFollowing, aligned
from harken.models.brain.envelope_response import STATISTICS


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def following(trials: int = 12, samples: int = 512) -> tuple[np.ndarray, np.ndarray]:
    """The first channel follows by a filter of three taps, the second does not."""
    envelope, eeg = noise(trials, samples), noise(trials, 2, samples, seed=1)
    eeg[:, 0] += 2 * np.roll(envelope, 4, 1) - np.roll(envelope, 9, 1)
    return envelope, eeg


@pytest.fixture(scope="module")
def fitted():
    return EnvelopeFollowing(256.0, surrogates=39).fit(*following())


def test_the_envelope_is_what_modulated_the_sound():
    time = np.arange(16000) / 8000
    slow = 1 + 0.5 * np.sin(2 * np.pi * 5 * time)
    found = speech_envelope(slow * np.sin(2 * np.pi * 300 * time), 8000.0)[2000:-2000]
    assert np.corrcoef(found, slow[2000:-2000])[0, 1] > 0.999
    at_eeg = resample_envelope(found, 8000.0, 200.0, 250)
    assert len(at_eeg) == 250
    assert at_eeg.max() <= 1


def test_the_mains_go_and_scale_stays():
    time = np.arange(2000) / 200
    eeg = np.stack([np.sin(2 * np.pi * 10 * time), np.sin(2 * np.pi * 50 * time)])
    found = clean_eeg(eeg, 200.0)[:, 600:-600]
    assert np.abs(found[0] - eeg[0, 600:-600]).max() < 0.02
    assert np.abs(found[1]).max() < 0.01
    np.testing.assert_allclose(clean_eeg(7 * eeg, 200.0), 7 * clean_eeg(eeg, 200.0), atol=1e-7)


def test_pairs_that_are_multiples_have_a_coefficient_of_one(seed):
    transfer = torch.randn(3, 20, 9, generator=seed, dtype=torch.complex128)
    transfer[2] = (2 - 1j) * transfer[0]
    density, coefficient = pair_spectra(transfer)
    assert channel_pairs(3).tolist() == [[0, 1], [0, 2], [1, 2]]
    torch.testing.assert_close(coefficient[1], torch.ones(20, dtype=torch.float64))
    assert ((coefficient >= 0) & (coefficient <= 1 + 1e-12)).all()
    torch.testing.assert_close(pair_spectra(transfer.flip(0))[0], density[[2, 1, 0]])


def test_regularised_the_ratio_has_no_tails():
    eeg, envelope = torch.from_numpy(noise(2, 3000)), torch.from_numpy(noise(3000, seed=2))
    plain, tame = (spectral_ratio(eeg, envelope, 200, 100, regularisation=share)[0].abs() for share in (0.0, 0.1))
    assert tame.max() < plain.max() / 2
    torch.testing.assert_close(spectral_ratio(3 * eeg, envelope, 200, 100)[0].abs(), 3 * plain)


def test_angles_near_the_seam_average_to_the_seam():
    found = circular_mean(torch.tensor([[3.1, -3.1], [0.1, 0.3]]))
    torch.testing.assert_close(found.abs(), torch.tensor([torch.pi, 0.2]), atol=1e-5, rtol=0)


def test_the_published_rule_finds_peaks_in_noise():
    values = np.abs(noise(101, seed=5))
    assert len(published_peaks(values)) >= 2
    assert len(published_peaks(np.ones(50))) == 0


def test_h1_is_the_filter_and_gets_closer_with_more_trials():
    frequencies = np.fft.rfftfreq(256, 1 / 256)
    truth = 2 * np.exp(-2j * np.pi * frequencies * 4 / 256) - np.exp(-2j * np.pi * frequencies * 9 / 256)
    errors = []
    for trials in (8, 64):
        response = EnvelopeFollowing(256.0, surrogates=1).fit(*following(trials)).response_
        errors.append(np.abs(response.transfer[0] - truth)[1:-1].mean())
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.15


def test_what_follows_is_found_and_what_does_not_is_not(fitted):
    response = fitted.response_
    following, other = response.found("coherence").values()
    assert len(following) > 120
    assert other == []
    assert response.statistics["coherence"].p.min() == pytest.approx(1 / 40)
    assert np.abs(response.coherence_without_bias[1].mean()) < 0.02
    assert fitted.score(*following_again()) > 0.4


def following_again() -> tuple[np.ndarray, np.ndarray]:
    envelope, eeg = noise(4, 512, seed=8), noise(4, 1, 512, seed=9)
    eeg[:, 0] += 2 * np.roll(envelope, 4, 1) - np.roll(envelope, 9, 1)
    return envelope, np.repeat(eeg, 2, axis=1)


@pytest.mark.parametrize("null", ["shift", "phases"])
def test_of_unrelated_signals_hardly_anything_is_found(null):
    finds = 0
    for trial in range(12):
        model = EnvelopeFollowing(128.0, surrogates=39, null=null, seed=trial)
        response = model.fit(noise(6, 256, seed=trial), noise(6, 2, 256, seed=100 + trial)).response_
        finds += response.statistics["coherence"].is_found.any()
    assert finds <= 4  # one in twenty is to be expected; five of twelve would come once in five thousand times


def test_a_steady_modulation_is_found_in_one_recording_cut_into_pieces():
    time = np.arange(128 * 40) / 128
    envelope = 1 + np.sin(2 * np.pi * 20 * time)
    eeg = noise(2, len(time)) * 2
    eeg[0] += np.sin(2 * np.pi * 20 * time + 1)
    response = EnvelopeFollowing(128.0, surrogates=39, piece=4.0).fit(envelope, eeg).response_
    assert 20.0 in response.found()["1"]
    assert response.found()["2"] == []


def test_tapers_find_it_too():
    response = EnvelopeFollowing(256.0, surrogates=19, tapers=3).fit(*following(6)).response_
    assert len(response.found()["1"]) > 100


def test_jittered_trials_are_aligned_by_one_channel_and_seen_by_another():
    time, rng = np.arange(512) / 256, np.random.default_rng(0)
    envelope = 1 + np.sin(2 * np.pi * 40 * time)
    eeg = noise(20, 2, 512)
    for trial in eeg:
        trial += np.sin(2 * np.pi * 40 * time + rng.uniform(0, 6))
    stimulus = aligned(envelope, eeg[:, 0], 256.0, 1 / 40)
    response = EnvelopeFollowing(256.0, surrogates=39).fit(stimulus, eeg).response_
    assert 40.0 in response.found()["2"]
    assert EnvelopeFollowing(256.0, surrogates=39).fit(envelope, eeg).response_.found()["2"] == []
    assert response.statistics["eeg_coherence"].is_found[0, 40]


def test_saved_and_loaded_it_is_the_same(fitted, tmp_path):
    fitted.save(tmp_path)
    again = EnvelopeFollowing.load(tmp_path)
    envelope = noise(2, 300)
    np.testing.assert_array_equal(again.predict(envelope), fitted.predict(envelope))
    for name in STATISTICS:
        np.testing.assert_array_equal(again.response_.statistics[name].limit, fitted.response_.statistics[name].limit)
    assert set(fitted.response_.as_json()["statistics"]) == set(STATISTICS)
    assert clone(fitted).get_params() == fitted.get_params()
    (tmp_path / "estimator.json").write_text("{}")
    with pytest.raises(CheckpointError):
        EnvelopeFollowing.load(tmp_path)


def test_a_seed_decides_and_epochs_bring_names():
    from harken.data.brain import Trials

    envelope, eeg = following(4)
    trials = Trials(eeg, np.zeros(4, int), ("a",), 256.0, ("Cz", "Pz"))
    one, other = (EnvelopeFollowing(9.0, surrogates=5).fit(envelope, x).response_ for x in (trials, trials.as_epochs()))
    assert one.channels == other.channels == ("Cz", "Pz")
    assert one.pairs == ("Cz-Pz",)
    np.testing.assert_allclose(one.statistics["ratio"].limit, other.statistics["ratio"].limit)


@pytest.mark.border
@pytest.mark.parametrize(
    ("model", "envelope", "eeg", "message"),
    [
        ({}, noise(3, 256), noise(2, 1, 256), "does not go with"),
        ({}, np.ones((2, 256)), noise(2, 1, 256), "that change"),
        ({}, noise(2, 256), np.full((2, 1, 256), np.nan), "NaN"),
        ({}, noise(2, 100), noise(2, 1, 100), "another window"),
        ({"null": "luck"}, noise(2, 256), noise(2, 1, 256), "null of"),
        ({"overlap": 1.0}, noise(2, 256), noise(2, 1, 256), "overlap"),
        ({"piece": 9.0}, noise(2, 256), noise(2, 1, 256), "shorter than a piece"),
        ({}, ["a"], noise(2, 1, 256), "envelope of numbers"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(model, envelope, eeg, message):
    with pytest.raises(InputError, match=message) as caught:
        EnvelopeFollowing(128.0, surrogates=2, **model).fit(envelope, eeg)
    assert "\n" not in str(caught.value)


@pytest.mark.border
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: speech_envelope(np.zeros(100), 8000.0), "silent"),
        (lambda: speech_envelope(np.ones(100), 1000.0), "more than 2000"),
        (lambda: resample_envelope(np.ones(100), 100.0, 100.0, 200), "cut the EEG"),
        (lambda: resample_envelope(np.zeros(100), 100.0, 100.0, 50), "never above"),
        (lambda: clean_eeg(np.zeros((1, 20)), 200.0), "33 samples"),
        (lambda: clean_eeg(np.zeros((1, 200)), 200.0, low=99.0), "band"),
    ],
)
def test_the_published_chain_refuses_what_it_cannot_use(call, message):
    with pytest.raises(InputError, match=message):
        call()
