"""``harken train mp-senet`` as it is typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from harken.cli import main

QUICK = ["--steps", "2", "--batch-size", "1", "--seconds", "0.3", "--validate-every", "2", "--device", "cpu"]


@pytest.fixture
def train(recordings, tmp_path, monkeypatch):
    """The command with tiny data, a tiny model, and one held-out mixture of two seconds."""
    from dataclasses import replace

    from harken.models.enhance.mp_senet import MPSENetConfig
    from harken.train import enhancement

    tiny = replace(MPSENetConfig.small(), channels=8, blocks=1, heads=2, n_fft=256, hop_length=64, win_length=256)
    monkeypatch.setattr(MPSENetConfig, "small", classmethod(lambda cls: tiny))
    whole = enhancement.validation_pairs
    monkeypatch.setattr(enhancement, "validation_pairs", lambda held_out, mix, items: whole(held_out, mix, 1))

    def run(*arguments: str, folder: str = "run") -> int:
        data = ["--clean", str(recordings / "speech"), "--noise", str(recordings / "noise")]
        return main(["train", "mp-senet", *data, "--out", str(tmp_path / folder), *QUICK, *arguments])

    return run


def test_a_run_ends_with_its_best_and_the_command_that_uses_it(train, tmp_path, capsys):
    assert train() == 0
    said = capsys.readouterr().err
    assert "0.1 min of clean speech in 2 files" in said
    assert "held out: 0.0 min of clean speech in 1 file," in said
    assert "best: WB-PESQ" in said
    assert f"harken enhance --weights {tmp_path / 'run' / 'best'} noisy.wav" in said
    assert json.loads((tmp_path / "run/best/config.json").read_text())["channels"] == 8


def test_mambattention_is_trained_alike(recordings, tmp_path, monkeypatch, capsys):
    from dataclasses import replace

    from harken.models.enhance.mambattention import MambAttention, MambAttentionConfig

    sizes = {"channels": 8, "blocks": 1, "heads": 2, "n_fft": 256, "hop_length": 64, "win_length": 256, "states": 2}
    tiny = replace(MambAttentionConfig.small(), **sizes)
    monkeypatch.setattr(MambAttentionConfig, "small", classmethod(lambda cls: tiny))
    out = str(tmp_path / "run")
    data = ["--clean", str(recordings / "speech"), "--noise", str(recordings / "noise"), "--out", out]
    quick = ["--steps", "1", "--batch-size", "1", "--seconds", "0.3", "--validate-every", "2", "--save-every", "1"]
    assert main(["train", "mambattention", *data, *quick, "--preset", "small:lstm", "--attention", "none"]) == 0
    config = MambAttention.from_pretrained(tmp_path / "run/last").config
    assert (config.core, config.attention) == ("lstm", None)


def test_options_reach_the_run(train, tmp_path, recordings):
    assert train("--attention", "linear", "--loss", "loudness=0.7", "--snr", "0", "5", "--schedule", "constant") == 0
    import torch

    state = torch.load(tmp_path / "run/state.pt", weights_only=True)
    assert state["recipe"]["model"]["attention"] == "linear"
    assert state["recipe"]["weights"]["loudness"] == 0.7
    assert state["recipe"]["mix"]["snr"] == [0.0, 5.0]
    assert state["config"]["schedule"] == "constant"
    best = str(tmp_path / "run/best")
    assert train("--init", best, folder="second") == 0
    assert json.loads((tmp_path / "second/last/config.json").read_text())["attention"] == "linear"


def test_a_run_in_the_folder_needs_resume(train, tmp_path, capsys):
    assert train() == 0
    assert train() == 2
    assert "already holds a run: pass --resume" in capsys.readouterr().err
    assert train("--resume", "--steps", "3") == 0
    assert train("--resume", "--seconds", "0.4") == 2
    assert "mix.seconds 0.3 -> 0.4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--preset", "large"], "--preset takes small, paper, conformer, got 'large'"),
        (["--attention", "nope"], "--attention takes .*linear"),
        (["--init", "nowhere"], "no weights at 'nowhere'"),
        (["--init", "x", "--preset", "small"], "--init brings its own configuration"),
        (["--reverb", "0.5"], "need simulated rooms"),
        (["--snr", "10", "0"], "snr is a range, low before high"),
        (["--seconds", "0"], "less than an hour"),
        (["--lr", "0"], "lr above 0"),
        (["--precision", "int8"], "precision must be one of"),
        (["--schedule", "linear"], "schedule must be one of"),
        (["--device", "tpu"], "--device takes auto or cpu"),
        (["--noise", "nowhere"], "no folder 'nowhere'"),
    ],
)
def test_what_cannot_be_is_one_line(train, capsys, arguments, message):
    assert train(*arguments) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) <= 3  # what was read, and the error
    assert re.search(message, said[-1])


def test_one_file_cannot_both_train_and_judge(recordings, tmp_path, capsys):
    from shutil import copy

    (tmp_path / "speech").mkdir()
    copy(recordings / "speech/0.wav", tmp_path / "speech")
    assert main(["train", "mp-senet", "--clean", str(tmp_path / "speech"), "--out", str(tmp_path / "run")]) == 2
    assert "--held-out-clean" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["train", "mp-senet", "--clean", str(tmp_path / "empty"), "--out", str(tmp_path / "run")]) == 2
    assert "no audio files in" in capsys.readouterr().err


def test_a_missing_package_is_named_before_anything_is_read(train, monkeypatch, capsys):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "pesq" else find(name, *rest))
    assert train() == 2
    assert "needs the package 'pesq': pip install 'harken[train]'" in capsys.readouterr().err


def test_the_help_teaches_and_is_quick(capsys):
    code = "import sys, harken.cli; harken.cli.main(['train', 'mp-senet', '--help']); print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "Example: harken train mp-senet --clean speech --noise noise" in said
    assert "--adversary-from" in said
    assert said.strip().endswith("False")
