"""``harken write``: from a text to a model to more text."""

import subprocess
import sys

import pytest

from harken.cli import main

TINY = ["--dim", "16", "--layers", "2", "--heads", "2", "--length", "24", "--batch-size", "4", "--device", "cpu"]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat, the dog sat on the log. " * 60)
    return tmp_path / "text.txt"


def test_a_model_is_trained_and_writes(text, tmp_path, capfdbinary):
    run = str(tmp_path / "run")
    arguments = ["--attention", "linear softmax", "--steps", "3", "--lr", "0.01", "--out", run]
    assert main(["write", "train", str(text), *TINY, *arguments]) == 0
    assert b"bits per byte at step 3" in capfdbinary.readouterr().err
    generate = ["write", "generate", "--weights", f"{run}/best", "--prompt", "the ", "-n", "20", "--top-k", "5"]
    written = []
    for seed in ("1", "1", "2"):
        assert main([*generate, "--seed", seed]) == 0
        written.append(capfdbinary.readouterr().out)
    assert written[0] == written[1] != written[2]
    assert written[0].startswith(b"the ")
    assert len(written[0]) == 4 + 20 + 1


@pytest.mark.slow
def test_it_learns(text, tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["write", "train", str(text), *TINY, "--steps", "300", "--lr", "0.01", "--out", run]) == 0
    bits = float(capsys.readouterr().err.split("best: ")[1].split()[0])
    assert bits < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.txt"], "no file or folder 'nowhere.txt'"),
        (["train", "TEXT", "--attention", "nope"], "no attention mechanism named 'nope'"),
        (["train", "TEXT", "--length", "100000"], "too few for crops of 100000"),
        (["train", "TEXT", "--device", "tpu"], "--device takes auto or cpu"),
        (["generate", "--weights", "nowhere"], "no weights at 'nowhere'"),
    ],
)
def test_what_cannot_be_is_one_line(text, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    arguments = [str(text) if argument == "TEXT" else argument for argument in arguments]
    tiny = TINY if arguments[0] == "train" else []
    assert main(["write", arguments[0], *tiny, *arguments[1:]]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_help_needs_no_torch():
    code = (
        "import sys; from harken.cli import main; main(['write', 'train', '--help']); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
