"""The verdict of MambAttention's claim follows a rule that was fixed before its experiment ran."""

from __future__ import annotations

import numpy as np
import pytest

from harken.data.audio import Audio, write
from harken.data.mixing import Recordings
from harken.errors import InputError
from harken.papers import _generalisation as claim
from harken.papers._trials import Trials
from harken.papers.mambattention import _judge


def domain(gain_in_distance, gain_in_intelligibility, over_unshared=0.0):
    distance = {"mamba": [5.0, 5.1], "shared": [5.0 + gain_in_distance, 5.1 + gain_in_distance]}
    distance["unshared"] = [x - over_unshared for x in distance["shared"]]
    clearness = {"mamba": [0.6, 0.61], "shared": [0.6 + gain_in_intelligibility, 0.61 + gain_in_intelligibility]}
    return {"si_sdr": Trials("si_sdr", distance), "estoi": Trials("estoi", clearness)}


@pytest.mark.parametrize(
    ("seen", "unseen", "verdict"),
    [
        ((0.0, 0.0), (3.0, 0.05, 1.0), "holds"),
        ((0.0, 0.0), (3.0, 0.05, 0.0), "holds in direction"),  # sharing adds nothing
        ((0.0, 0.0), (1.0, 0.02), "holds in direction"),
        ((1.5, 0.02), (1.0, 0.02), "not shown here"),  # as good at home
        ((0.0, 0.0), (0.3, 0.02), "not shown here"),  # within the margin
        ((0.0, 0.0), (1.0, -0.02), "not shown here"),  # one metric each way
        ((0.0, 0.0), (-1.0, -0.02), "fails here"),
    ],
)
def test_the_gain_must_be_one_of_generalisation(seen, unseen, verdict):
    assert _judge(domain(*seen), domain(*unseen)) == verdict


def test_published_noise_is_noisy_minus_clean(tmp_path):
    rng = np.random.default_rng(0)
    clean, noise = 0.2 * rng.standard_normal((2, 1600, 1)).astype(np.float32)
    pairs = tmp_path / "pairs"
    for folder in ("voicebank_demand/clean", "voicebank_demand/noisy", "dns_challenge"):
        (pairs / folder).mkdir(parents=True)
    write(pairs / "voicebank_demand/clean/p1.wav", Audio(clean, 16000))
    write(pairs / "voicebank_demand/noisy/p1.wav", Audio(clean + noise, 16000))
    write(pairs / "dns_challenge/a_clean.wav", Audio(clean, 16000))
    write(pairs / "dns_challenge/a_noisy.wav", Audio(clean - noise, 16000))
    made = Recordings([claim._published_noises(tmp_path, tmp_path)], 16000)
    assert len(made) == 2
    found = np.abs(made.crop(1600, rng))
    assert np.corrcoef(found, np.abs(noise[:, 0]))[0, 1] > 0.999


def test_a_folder_without_pairs_is_named(tmp_path):
    with pytest.raises(InputError, match="no pairs in"):
        claim._published_noises(tmp_path, tmp_path)


def test_without_recordings_it_says_what_to_set(monkeypatch, tmp_path):
    monkeypatch.delenv("HARKEN_ENHANCE_DATA", raising=False)
    with pytest.raises(InputError, match="set HARKEN_ENHANCE_DATA"):
        claim._sources(False, tmp_path)


def test_voices_of_the_training_are_kept_back_and_unseen_ones_are_others(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train/clean", 9), ("held_out/clean", 2), ("held_out/noise", 1)):
        (tmp_path / part).mkdir(parents=True)
        for number in range(count):
            write(tmp_path / part / f"{number}.wav", Audio(0.1 * rng.standard_normal((800, 1), np.float32), 16000))
    monkeypatch.setenv("HARKEN_ENHANCE_DATA", str(tmp_path))
    monkeypatch.delenv("HARKEN_DATA", raising=False)
    sources = claim._sources(False, tmp_path)
    assert (len(sources.trained_on), len(sources.kept_back), len(sources.unseen_clean)) == (7, 2, 2)
    assert not set(sources.trained_on.names) & set(sources.kept_back.names)
