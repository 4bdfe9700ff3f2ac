"""`harken brain tokens`: words, their picture, and what is learned from them without leaking."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from harken.cli import main
from harken.data.brain import Trials
from harken.models.brain import load_estimator
from harken.tasks.tokenise_trials import LEAKY, classify_words, random_folds, tokenise

QUICK = ["--window", "0.5", "--vocabulary", "4", "--order", "4", "-q"]


def trials(count=32) -> Trials:
    """People who each have a rhythm of their own; two states that do not differ."""
    rng = np.random.default_rng(0)
    subject = np.arange(count) * 4 // count
    time = np.arange(100) / 100
    rhythm = np.sin(2 * np.pi * (6 + 10 * subject[:, None, None]) * time + rng.uniform(0, 6, (count, 2, 1)))
    x = (rhythm + 0.3 * rng.standard_normal((count, 2, 100))) * 1e-5
    return Trials(x.astype(np.float32), subject % 2, ("rest", "task"), 100.0, subject=subject)


@pytest.fixture
def data(tmp_path):
    trials().save(tmp_path / "data.npz")
    return tmp_path / "data.npz"


def test_words_are_written_drawn_and_kept(data, tmp_path, capsys):
    out, picture = tmp_path / "words.npz", tmp_path / "words.png"
    call = ["brain", "tokens", str(data), *QUICK, "--out", str(out), "--plot", str(picture)]
    assert main([*call, "--save", str(tmp_path / "tokenizer"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert np.sum(told["shares"], 1) == pytest.approx([1, 1])
    assert picture.stat().st_size > 10_000
    with np.load(out) as saved:
        assert saved["words"].shape == (32, 4)
        np.testing.assert_array_equal(load_estimator(tmp_path / "tokenizer").transform(trials()), saved["words"])


def test_the_command_classifies_both_ways(data, tmp_path, capsys):
    call = ["brain", "tokens", str(data), *QUICK, "--classify", "--pretrain-epochs", "1", "--epochs", "1", "--leaky"]
    picture = tmp_path / "a.png"
    assert main([*call, "--split", "cross-subject", "--folds", "2", "--features", "poles", "--plot", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "cross-subject: 32 trials judged" in text
    assert LEAKY in text
    assert picture.exists()


def test_random_folds_recognise_people_where_whole_people_are_at_chance():
    given = trials()
    network = {"dim": 16, "hidden": 32, "layers": 1, "pretrain_epochs": 0, "epochs": 1}
    clean, leaky = classify_words(
        given, window=0.5, tokenizer={"vocabulary": 8, "order": 4}, network=network, split="cross-subject", folds=4,
        baselines=(), leaky=True,
    )  # fmt: skip
    by_counts = [next(s for s in found.scores if s.name == "word counts").accuracy.mean() for found in (clean, leaky)]
    assert by_counts[1] > 0.8
    assert by_counts[0] < 0.6
    assert leaky.split == LEAKY


def test_random_folds_keep_the_share_of_each_class():
    for train, test in random_folds(trials(), 4):
        assert not np.intersect1d(train, test).size
        assert trials().y[test].mean() == 0.5


def test_a_trial_may_be_one_window():
    found = tokenise(trials(), window=1.0, vocabulary=4, order=4)
    assert found.words.shape == (32, 1, 2)
    assert found.spectra is not None


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "9"], "does not fit into trials of 1 s"),
        (["--vocabulary", "999"], "different windows given"),
        (["--order", "40"], "expected an order"),
        (["--features", "letters"], "expected features of"),
        (["--classify", "--split", "cross-session"], "one session only"),
    ],
)
def test_refusals_are_one_line(data, capsys, options, message):
    assert main(["brain", "tokens", str(data), *QUICK, *options]) == 2
    text = capsys.readouterr().err.strip()
    assert message in text
    assert "\n" not in text
