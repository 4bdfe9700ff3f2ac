"""``harken brain seizure``: train, judge and apply on files, with figures, JSON and one-line errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from harken.cli import main

SMALL = ["--segment", "0.5", "--dim", "16", "--layers", "1", "--epochs", "8", "--lr", "0.01", "--quiet"]


def signals(y: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Microvolts: strong 4 Hz waves where y is 1."""
    rng = np.random.default_rng(seed)
    waves = np.sin(2 * np.pi * 4 * np.arange(samples) / 64 + rng.uniform(0, 6, (len(y), 1, 1)))
    return 20 * rng.standard_normal((len(y), 2, samples)) + 60 * y[:, None, None] * waves


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Trials, a detector, and a recording with one seizure from 20 to 30 seconds."""
    path = tmp_path_factory.mktemp("seizure")
    y = np.arange(32) % 2
    np.savez(path / "trials.npz", x=signals(y, 128, 0), y=y, classes=np.array(["rest", "ictal"]), sfreq=64.0)
    truth = np.zeros(25, int)
    truth[10:15] = 1
    data = signals(truth, 128, 1).swapaxes(0, 1).reshape(2, -1)
    np.savez(path / "night.npz", data=data, sfreq=64.0)
    (path / "truth.csv").write_text("start,end\n20,30\n")
    command = ["brain", "seizure", "train", str(path / "trials.npz"), "--out", str(path / "detector"), *SMALL]
    assert main([*command, "--pretrain", "1", "--report", str(path / "train.json")]) == 0
    return path


def test_a_seizure_is_found_drawn_and_judged(folder, capsys):
    command = [
        "brain", "seizure", "apply", str(folder / "night.npz"), "--weights", str(folder / "detector"),
        "--event", "ictal", "--truth", str(folder / "truth.csv"), "--plot", str(folder / "night.png"),
        "--report", str(folder / "night.json"), "--shortest", "3", "--gap", "2", "--quiet",
    ]  # fmt: skip
    assert main(command) == 0
    assert "of 1 real events 1 found; 0.00 false an hour" in capsys.readouterr().out
    found = json.loads((folder / "night.json").read_text())
    (event,) = found["events"]
    assert event["start"] == pytest.approx(20, abs=2.5)
    assert event["end"] == pytest.approx(30, abs=2.5)
    assert len(found["times"]) == len(found["probability"]) == 97
    assert found["kappa_of_windows"] > 0.6
    assert (folder / "night.png").read_bytes().startswith(b"\x89PNG")


def test_training_reports_its_losses(folder):
    told = json.loads((folder / "train.json").read_text())
    assert (told["classes"], told["segments_per_trial"]) == (["ictal", "rest"], 4)
    assert len(told["pretrain_history"]) == 1


def test_it_is_judged_beside_band_power(folder, capsys):
    command = ["brain", "seizure", "evaluate", str(folder / "trials.npz"), "--folds", "2", *SMALL, "--epochs", "2"]
    assert main([*command, "--json", "--plot", str(folder / "judged.png")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [decoder["decoder"] for decoder in found["decoders"]] == ["SeizureDetector", "band-power"]
    assert found["chance"] == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--event", "sleep"], "knows no class 'sleep': one of ictal, rest"),
        (["--threshold", "1.5"], "threshold in [0, 1)"),
        (["--truth", "nowhere.csv"], "no list of events"),
        (["--weights", "nowhere"], "no estimator.json"),
        (["--channels", "7"], "no channel named '7'"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(folder, change, message, capsys):
    command = [
        "brain", "seizure", "apply", str(folder / "night.npz"), "--weights", str(folder / "detector"),
        "--event", "ictal", "--quiet", *change,
    ]  # fmt: skip
    assert main(command) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("text", ["20 10\n", "a,b\nc,d\n", "12\n", "nan 3\n"])
def test_lists_of_events_are_checked(folder, text, tmp_path, capsys):
    (tmp_path / "truth.txt").write_text(text)
    command = ["brain", "seizure", "apply", str(folder / "night.npz"), "--weights", str(folder / "detector")]
    code = main([*command, "--event", "ictal", "--truth", str(tmp_path / "truth.txt"), "--quiet"])
    assert (code, "is no event" in " ".join(capsys.readouterr().err.split())) in [(2, True), (0, False)]
    assert code == 2 or text == "nan 3\n"


def test_a_segment_longer_than_a_trial_is_refused(folder, capsys):
    command = ["brain", "seizure", "train", str(folder / "trials.npz"), "--segment", "5", "--out", str(folder / "no")]
    assert main(command) == 2
    assert "does not fit trials of 2 s" in " ".join(capsys.readouterr().err.split())
    assert not (folder / "no").exists()
