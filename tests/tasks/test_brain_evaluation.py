"""Decoders judged side by side: what is learned is never judged, chance is told, the numbers are right."""

import json
from typing import ClassVar

import numpy as np
import pytest

from harken.cli import main
from harken.data.brain import Trials
from harken.data.brain_samples import SAMPLES, sample_trials
from harken.errors import InputError
from harken.tasks.brain_evaluation import confusion_table, draw_evaluation, evaluate, named_decoders

pytest.importorskip("sklearn")


def trials(count=60, strength=1.0):
    """The second class beats at 10 Hz in the second channel."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 3, 128)).astype(np.float32)
    y = np.arange(count) % 2
    x[:, 1] += strength * y[:, None] * np.sin(2 * np.pi * 10 * np.arange(128) / 128 + rng.uniform(0, 6, (count, 1)))
    return Trials(x * 1e-6, y, ("rest", "beat"), 128.0, session=np.arange(count) * 3 // count)


class Spy:
    """Notes what it is shown; names the first class."""

    seen: ClassVar[list] = []

    def fit(self, x, y):
        self.x = x
        return self

    def predict(self, x):
        Spy.seen.append((self.x, x))
        return np.zeros(len(x), int)


def test_a_decoder_never_sees_what_it_is_judged_on():
    Spy.seen = []
    given = trials()
    found = evaluate({"spy": lambda seed: Spy()}, given, split="cross-session")
    for learned, judged in Spy.seen:
        keys = {row.tobytes() for row in learned}
        assert keys.isdisjoint(row.tobytes() for row in judged)
    assert found.chance == pytest.approx(0.5)
    assert found.scores[0].accuracy.shape == (3, 1)
    assert found.trials == 60


@pytest.mark.parametrize("name", ["csp-lda", "riemann", "band-power"])
def test_baselines_find_a_rhythm(name):
    found = evaluate(named_decoders([name], 128.0), trials(), folds=3)
    assert found.scores[0].accuracy.mean() > 0.8


def test_baselines_are_at_chance_without_a_difference():
    found = evaluate(named_decoders(["riemann"], 128.0), trials(200, strength=0), folds=5)
    assert abs(found.scores[0].accuracy.mean() - 0.5) < 0.12


def test_a_confusion_table_counts_true_classes_in_rows():
    table = confusion_table(np.array([0, 0, 1, 1, 1]), np.array([0, 1, 1, 1, 0]), 2)
    assert table.tolist() == [[1, 1], [1, 2]]


def test_bad_folds_and_names_are_refused():
    given = trials()
    same = np.arange(10)
    with pytest.raises(InputError, match="tests on trials it trains on"):
        evaluate({"spy": lambda seed: Spy()}, given, splits=[(same, same)])
    with pytest.raises(InputError, match="no training trial of class"):
        evaluate({"spy": lambda seed: Spy()}, given, splits=[(np.array([0, 2]), np.array([1]))])
    flat = Trials(np.zeros((20, 3, 64)), np.arange(20) % 2, ("a", "b"), 128.0)
    with pytest.raises(InputError, match="csp-lda cannot learn from these trials"):
        evaluate(named_decoders(["csp-lda"], 128.0), flat)
    with pytest.raises(InputError, match="two classes"):
        evaluate({"spy": lambda seed: Spy()}, Trials(np.ones((9, 1, 8)), np.zeros(9), ("a",), 128.0))
    with pytest.raises(InputError, match="no decoder named"):
        named_decoders(["magic"], 128.0)
    with pytest.raises(InputError, match="one subject only"):
        evaluate({"spy": lambda seed: Spy()}, given, split="cross-subject")


def test_the_command_writes_json_and_a_picture(tmp_path, capsys):
    trials().save(tmp_path / "a.npz")
    picture, report = tmp_path / "a.png", tmp_path / "a.json"
    call = ["brain", "evaluate", str(tmp_path / "a.npz"), "--decoders", "riemann", "--split", "cross-session", "-q"]
    assert main([*call, "--plot", str(picture), "--report", str(report)]) == 0
    assert picture.stat().st_size > 5000
    found = json.loads(report.read_text())
    assert found["decoders"][0]["decoder"] == "riemann"
    assert len(found["decoders"][0]["accuracy_by_fold_and_seed"]) == 3
    assert "chance" in capsys.readouterr().out


def test_a_picture_of_many_classes_is_drawn(tmp_path):
    x = np.random.default_rng(0).standard_normal((60, 1, 32))
    given = Trials(x, np.arange(60) % 15, tuple(f"class {i}" for i in range(15)), 128.0)
    draw_evaluation(evaluate({"spy": lambda seed: Spy()}, given, folds=2), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


@pytest.mark.parametrize("name", ["EyesOpenShut"])
def test_a_sample_of_the_package_is_what_was_published(name):
    try:
        found = sample_trials(name)
    except InputError as error:
        pytest.skip(str(error))
    assert found.x.shape == (98, 14, 128)
    assert np.bincount(found.session).tolist() == [56, 42]


def test_samples_that_are_not_there_are_said_to_be(tmp_path):
    with pytest.raises(InputError, match="no sample named"):
        sample_trials("Nothing")
    with pytest.raises(InputError, match="no file"):
        sample_trials(SAMPLES[0], tmp_path)
