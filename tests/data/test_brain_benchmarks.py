"""Benchmarks by way of MOABB, which stands in for itself here: what it gives arrives as trials."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from harken.cli import main
from harken.data.brain import Trials
from harken.data.brain_benchmarks import benchmark_trials
from harken.data.brain_files import read_trials
from harken.errors import InputError, MissingExtraError

pytest.importorskip("mne")


class Column(list):
    def astype(self, kind):
        return [kind(entry) for entry in self]

    def to_numpy(self, kind):
        return np.array(self, kind)


class Zhou2016:
    subject_list = [1, 2, 3]  # noqa: RUF012


class LeftRightImagery:
    def __init__(self, fmin=8, fmax=32, resample=None):
        self.fmin = fmin

    def get_data(self, dataset, subjects, return_epochs):
        assert return_epochs
        if self.fmin > 50:
            raise AssertionError("no event fits")
        x = np.random.default_rng(0).standard_normal((6, 2, 20)).astype(np.float32) * 1e-5
        y = np.array([0, 1, 0, 1, 0, 1])
        epochs = Trials(x, y, ("left_hand", "right_hand"), 128.0, ("C3", "C4")).as_epochs()
        about = {"subject": Column([1, 1, 1, 2, 2, 2]), "session": Column(["0a", "0a", "1b", "0a", "1b", "1b"])}
        return epochs, np.array(["left_hand", "right_hand"])[y], about


@pytest.fixture
def moabb(monkeypatch):
    parts = {"moabb": ModuleType("moabb")}
    for name, what in (("datasets", Zhou2016), ("paradigms", LeftRightImagery)):
        module = SimpleNamespace(**{what.__name__: what, "helper": 3})
        setattr(parts["moabb"], name, module)
        parts[f"moabb.{name}"] = module
    for name, module in parts.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_subjects_and_sessions_stay_apart_and_units_are_volts(moabb, tmp_path, capsys):
    out = tmp_path / "zhou.npz"
    assert main(["brain", "fetch", "Zhou2016", "--subjects", "1,2", "--low", "8", "-o", str(out)]) == 0
    assert "2 subjects, 2 sessions" in capsys.readouterr().out
    found = read_trials(out)
    assert found.subject.tolist() == [1, 1, 1, 2, 2, 2]
    assert found.session.tolist() == [0, 0, 1, 0, 1, 1]
    assert found.classes == ("left_hand", "right_hand")
    assert found.ch_names == ("C3", "C4")
    assert 5e-6 < found.x.std() < 2e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dataset": "Nothing"}, "no dataset named"),
        ({"dataset": "helper"}, "no dataset named"),
        ({"paradigm": "Magic"}, "no paradigm named"),
        ({"subjects": [7]}, "no subject 7"),
        ({"tempo": 3}, "does not take that"),
        ({"fmin": 60}, "cannot be read as"),
    ],
)
def test_what_moabb_cannot_give_is_told_in_one_line(moabb, given, message):
    with pytest.raises(InputError, match=message) as caught:
        benchmark_trials(**{"dataset": "Zhou2016", **given})
    assert "\n" not in str(caught.value)


def test_without_moabb_the_line_that_installs_it_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "moabb", None)
    with pytest.raises(MissingExtraError, match="moabb"):
        benchmark_trials("Zhou2016")
