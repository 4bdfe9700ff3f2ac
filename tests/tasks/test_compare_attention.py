"""The comparison: equal terms for all, resumable, honest about who failed."""

import json
from dataclasses import replace

import pytest

from harken.cli import main
from harken.errors import InputError
from harken.tasks import compare_attention as module
from harken.tasks.compare_attention import (
    CompareConfig,
    CompareReport,
    Row,
    compare_attention,
    draw_comparison,
    train_one,
)

TINY = CompareConfig(steps=3, tokens=64, dim=8, layers=1, heads=2, seeds=2, threads=1)


def row(mechanism: str, quality: float, speed: float) -> Row:
    return Row(mechanism, 16, quality, 0.0, 1, speed, None, 1.0, 10, 1.0)


@pytest.fixture
def here(monkeypatch):
    """Trainings in this process, counted."""
    made: list[tuple] = []

    def run(*job):
        made.append(job[:4])
        return train_one(*job)

    monkeypatch.setattr(module, "_in_a_process", run)
    return made


@pytest.mark.parametrize("task", ["copy", "lm", "series", "document"])
def test_a_cell_says_what_was_learned_and_at_what_price(task):
    cell = train_one(task, "linear", 16, 0, TINY)
    assert cell["quality"] > 0 and cell["train_speed"] > 0 and cell["parameters"] > 0 and cell["flops"] > 0
    assert (cell["decode_speed"] is not None) is (task in ("copy", "lm"))


def test_images_are_grids():
    pytest.importorskip("sklearn")
    assert 0 <= train_one("image", "softmax", 16, 0, TINY)["quality"] <= 1


def test_a_seed_decides_what_is_learned():
    one, other, third = (train_one("copy", "softmax", 16, seed, TINY)["quality"] for seed in (1, 1, 2))
    assert one == other
    assert one != third


def test_what_is_there_is_not_trained_again(here, tmp_path):
    first = compare_attention("copy", [16], ["softmax"], config=TINY, folder=tmp_path)
    assert len(here) == 2
    again = compare_attention("copy", [16], ["softmax", "linear"], config=TINY, folder=tmp_path)
    assert [job[1] for job in here[2:]] == ["linear", "linear"]
    assert again.rows[0] == first.rows[0]


def test_a_folder_of_other_settings_is_refused(here, tmp_path):
    compare_attention("copy", [16], ["softmax"], config=TINY, folder=tmp_path)
    with pytest.raises(InputError, match="comparison of other settings"):
        compare_attention("copy", [16], ["softmax"], config=replace(TINY, steps=4), folder=tmp_path)


def test_who_fails_does_not_hurt_the_rest(here, tmp_path, monkeypatch):
    good = module._in_a_process
    monkeypatch.setattr(module, "_in_a_process", lambda *job: {"error": "no"} if job[1] == "linear" else good(*job))
    report = compare_attention("copy", [16], ["softmax", "linear"], config=TINY, folder=tmp_path)
    assert [r.mechanism for r in report.rows] == ["softmax"]
    assert len(report.failed) == 2 and "linear, 16 positions, seed 0: no" in report.failed
    monkeypatch.setattr(module, "_in_a_process", good)
    again = compare_attention("copy", [16], ["softmax", "linear"], config=TINY, folder=tmp_path)
    assert not again.failed and len(again.rows) == 2


def test_a_training_has_a_process_of_its_own():
    result = module._in_a_process("copy", "softmax", 16, 0, replace(TINY, steps=1))
    assert result["quality"] >= 0 and result["peak_mb"] >= 0
    assert "multiple of heads" in module._in_a_process("copy", "softmax", 16, 0, replace(TINY, heads=3))["error"]


def test_nothing_on_the_line_is_beaten_in_both():
    rows = (row("a", 0.9, 1.0), row("b", 0.8, 2.0), row("c", 0.7, 1.5), row("d", 0.1, 9.0))
    report = CompareReport("copy", "accuracy", TINY, rows, (), ())
    assert [r.mechanism for r in report.pareto(16)] == ["d", "b", "a"]
    fewer_bits = replace(report, quality="bits_per_byte")
    assert [r.mechanism for r in fewer_bits.pareto(16)] == ["d"]


def test_a_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    report = CompareReport("copy", "accuracy", TINY, (row("a", 0.9, 1.0), row("b", 0.8, 2.0)), (), ())
    draw_comparison(report, tmp_path / "compare.png")
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_the_command_prints_and_saves(here, tmp_path, capsys):
    small = ["--steps", "2", "--tokens", "32", "--dim", "8", "--layers", "1", "--heads", "2", "--seeds", "1"]
    run = ["--out", str(tmp_path / "run"), "--json", str(tmp_path / "table.json")]
    assert (
        main(["compare", "attention", "--task", "copy", "--lengths", "16", "--mechanisms", "linear", *small, *run]) == 0
    )
    assert "linear *" in capsys.readouterr().out
    assert json.loads((tmp_path / "table.json").read_text())["rows"][0]["mechanism"] == "linear"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "nope"], "no task and no file 'nope'"),
        (["--task", "copy", "--mechanisms", "nope"], "no attention mechanism named 'nope'"),
        (["--task", "copy", "--lengths", "2"], "length of at least 4"),
        (["--task", "series", "--lengths", "1m"], "too short for 1048576 samples"),
        (["--lr", "0"], "must be positive"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, capsys):
    assert main(["compare", "attention", *arguments, "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert message in said[0]
    assert not (tmp_path / "run").exists()
