"""A corpus of pairs: at the levels asked for, and with nothing that one split could tell another."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harken.data.audio import Audio, read, write
from harken.data.mixing import Recordings, noise_gain, rms
from harken.data.noises import average_power, noise_with_power
from harken.data.noisy_corpus import KINDS, CorpusConfig, make_corpus, split_voices
from harken.errors import InputError

RATE = 8000
SPLITS = (("train", 0.6), ("test", 0.4))
CONFIG = CorpusConfig(sample_rate=RATE, talkers=(2, 3), shares=SPLITS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    (folder / "clean").mkdir()
    (folder / "noise").mkdir()
    time = np.arange(RATE // 4) / RATE
    for voice in range(8):
        for part in range(4):
            tone = 0.4 * np.sin(2 * np.pi * (100 + 40 * voice) * time) * (1 + np.sin(9 * time + part))
            write(folder / "clean" / f"v{voice}_{part}.wav", Audio(tone[:, None].astype(np.float32), RATE))
    hiss = 0.1 * rng.standard_normal((2 * RATE, 1)).astype(np.float32)
    write(folder / "noise" / "hiss.wav", Audio(hiss, RATE))
    return folder


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("corpus")
    made = make_corpus(folder / "clean", folder / "noise", out, CONFIG)
    assert made == {"train": 20, "test": 12}
    return out


def lines(corpus, split):
    return [json.loads(line) for line in (corpus / split / "manifest.jsonl").read_text().splitlines()]


def test_every_pair_has_the_ratio_that_its_line_says(corpus):
    kinds = set()
    for split in ("train", "test"):
        for line in lines(corpus, split):
            noisy, clean = (read(corpus / split / role / f"{line['name']}.flac") for role in ("noisy", "clean"))
            noise = noisy.samples[:, 0] - clean.samples[:, 0]
            assert noise_gain(clean.samples[:, 0], noise, line["snr"], RATE) == pytest.approx(1, abs=0.02)
            assert np.abs(noisy.samples).max() <= 0.9901
            kinds.add(line["noise"])
    assert kinds == set(KINDS)


def test_no_voice_is_in_two_splits(corpus):
    train, test = ({line["voice"] for line in lines(corpus, split)} for split in ("train", "test"))
    assert len(train) == 5
    assert len(test) == 3
    assert not train & test


def test_the_same_seed_makes_the_same_corpus(folder, corpus, tmp_path):
    config = replace(CONFIG, seed=1)
    for again, as_before in ((CONFIG, True), (config, False)):
        out = tmp_path / str(again.seed)
        make_corpus(folder / "clean", folder / "noise", out, again)
        assert (lines(out, "train") == lines(corpus, "train")) is as_before


def test_a_part_of_a_recording_is_its_own(folder):
    whole, first, last = (Recordings([folder / "noise"], RATE, part) for part in ((0.0, 1.0), (0.0, 0.6), (0.6, 1.0)))
    assert first.seconds + last.seconds == whole.seconds
    assert first.seconds == pytest.approx(1.2)


def test_noise_takes_the_spectrum_of_speech():
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 1000 / RATE * np.arange(RATE)).astype(np.float32)
    power = average_power(tone)
    made = noise_with_power(4 * RATE, power, rng)
    assert rms(made) == pytest.approx(1, abs=1e-3)
    assert average_power(made).argmax() == power.argmax() == 64


def test_one_voice_a_split_at_least(folder):
    paths = sorted((folder / "clean").iterdir())
    split = split_voices(paths, replace(CONFIG, shares=(("train", 0.98), ("validation", 0.01), ("test", 0.01))))
    assert [len(voices) for voices in split.values()] == [6, 1, 1]


def test_what_cannot_be_made_is_named(folder, tmp_path):
    with pytest.raises(InputError, match="needs 7 voices in every split, one has 5"):
        make_corpus(folder / "clean", folder / "noise", tmp_path, replace(CONFIG, talkers=(6, 8)))
    with pytest.raises(InputError, match="needs a folder of recordings"):
        make_corpus(folder / "clean", None, tmp_path, CONFIG)
    with pytest.raises(InputError, match="1 voices cannot fill 2 splits"):
        split_voices([folder / "clean" / "v0_0.wav"], CONFIG)
    with pytest.raises(InputError, match="kinds of noise among"):
        CorpusConfig(kinds=("loud",))
    with pytest.raises(InputError, match="ratios"):
        CorpusConfig(snrs=())


def test_two_utterances_of_one_name_are_refused(folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / "clean" / name).mkdir(parents=True)
        write(tmp_path / "clean" / name / "v1_1.wav", Audio(np.ones((10, 1), np.float32), RATE))
    with pytest.raises(InputError, match=r"two utterances .* are named 'v1_1'"):
        make_corpus(tmp_path / "clean", folder / "noise", tmp_path / "out", CONFIG)
