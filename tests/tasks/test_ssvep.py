"""Methods judged by the length of the window: nothing is learned from what judges, and the command says it all."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harken.cli import app, main
from harken.data.ssvep import synthetic_ssvep
from harken.errors import InputError
from harken.score.brain import information_transfer_rate
from harken.tasks.ssvep import METHODS, Settings, evaluate_windows

TINY = Settings(bands=2, network={"filters": 4, "epochs": 2, "subject_epochs": 1})


@pytest.fixture(scope="module")
def trials():
    return synthetic_ssvep(blocks=3, subjects=2, snr=0.8, seconds=0.6, seed=1)


def test_every_method_is_judged_for_each_person_session_and_seed(trials):
    heard = []
    report = evaluate_windows(
        trials, [0.6], METHODS, settings=TINY, seeds=(0, 1), progress=lambda *what: heard.append(what)
    )
    assert len(report.at("trca", 0.6).accuracy) == 6
    assert len(report.at("dnn", 0.6).accuracy) == 12
    assert heard[-1][0] == pytest.approx(1)
    assert report.at("etrca", 0.6).as_json()["accuracy"] > 0.8
    one = report.at("fbcca", 0.6)
    bits = [float(information_transfer_rate(p, 4, 0.6)) for p in one.accuracy]
    assert one.as_json()["itr_bits_per_minute"] == pytest.approx(np.mean(bits))


def test_labels_without_meaning_are_chance(trials):
    shuffled = trials.select(np.arange(len(trials)))
    shuffled.y[:] = np.random.default_rng(0).permuted(shuffled.y.reshape(-1, 4), axis=1).ravel()
    report = evaluate_windows(shuffled, [0.6], ["etrca"], settings=TINY)
    assert report.at("etrca", 0.6).as_json()["accuracy"] < 0.55


def test_one_session_is_cut_into_stretches(trials):
    alone = trials.select(trials.subject == 0)
    alone.session[:] = 0
    alone = alone.select(np.tile(np.arange(len(alone)), 2))
    report = evaluate_windows(alone, [0.6], ["fbcca"], settings=TINY)
    assert "neighbouring" in report.split
    assert len(report.at("fbcca", 0.6).accuracy) == 5


@pytest.mark.parametrize(
    ("windows", "methods", "message"), [([0.5], ["lda"], "no method named 'lda'"), ([], ["cca"], "at least one window")]
)
def test_what_cannot_be_is_refused(windows, methods, message, trials):
    with pytest.raises(InputError, match=message):
        evaluate_windows(trials, windows, methods)


def run(words):
    return CliRunner().invoke(app, words.split())


def test_the_commands_judge_train_and_read(trials, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trials.save("trials.npz")
    judged = run("brain ssvep evaluate trials.npz --windows 0.6 --methods fbcca --plot a.png --json -q")
    assert judged.exit_code == 0, judged.output
    assert json.loads(judged.stdout)["results"][0]["method"] == "fbcca"
    assert (tmp_path / "a.png").stat().st_size > 10_000
    shown = run("brain ssvep evaluate trials.npz --windows 0.6 --methods cca -q --report a.json")
    assert "bits a minute" in shown.output
    assert json.loads((tmp_path / "a.json").read_text())["trials"] == len(trials)
    train = "brain ssvep train trials.npz --filters 4 --epochs 2 --subject-epochs 2 --out run --torchscript net.ts -q"
    trained = run(train)
    assert trained.exit_code == 0, trained.output
    assert "2 people" in trained.output
    read = run("brain ssvep predict trials.npz --weights run --subject 1 --json")
    assert {row["class"] for row in json.loads(read.stdout)} <= set(trials.classes)
    assert len(run("brain ssvep predict trials.npz --weights run").stdout.splitlines()) == len(trials)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("evaluate nothing.npz", "no recording at 'nothing.npz'"),
        ("evaluate trials.npz --windows soon", "--windows takes positive numbers"),
        ("evaluate trials.npz --windows 60", "cannot cut 60 s"),
        ("predict trials.npz --weights nowhere", "holds no usable SSVEPClassifier"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(command, message, trials, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    trials.save("trials.npz")
    assert main(["brain", "ssvep", *command.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
