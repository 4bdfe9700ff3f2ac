"""Parity: what passes, what fails, and what is no case at all."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer import Typer
from typer.testing import CliRunner

from harken.cli.papers import register
from harken.errors import InputError
from harken.papers import get_paper, parity
from harken.papers.parity import check_parity, find_cases, load_case

SAVED = {"x": torch.arange(4.0), "y": 2 * torch.arange(4.0), "phase": torch.tensor([3.14, -3.14])}


@pytest.fixture
def case(tmp_path: Path) -> Path:
    directory = tmp_path / "case"
    directory.mkdir()
    description = {"slug": "mala", "tolerance": 1e-4, "config": {"gain": 2.0}}
    (directory / "case.json").write_text(json.dumps(description))
    save_file(SAVED, directory / "io.safetensors")
    save_file({"w": torch.tensor([2.0])}, directory / "weights.safetensors")
    return directory


def double(case_dir: Path) -> dict[str, torch.Tensor]:
    case = load_case(case_dir)
    return {"y": case.io["x"] * case.weights["w"]}


@pytest.fixture
def replaying(monkeypatch):
    """Give the paper of the fabricated case a replay."""

    def use(replay, **fields):
        paper = replace(get_paper("mala"), replay=replay, **fields)
        monkeypatch.setattr(parity, "get_paper", lambda slug: paper)

    return use


def test_equal_outputs_pass_and_inputs_are_only_reported(case, replaying):
    replaying(double)
    report = check_parity(case)
    assert report.passed
    assert report.tensors[0].error == 0.0
    assert report.not_compared == ("phase", "x")


def test_the_largest_error_decides(case, replaying):
    replaying(lambda _: {"y": SAVED["y"] + torch.tensor([0.0, 0.0, 0.0, 0.5]), "x": SAVED["x"] + 9e-5})
    report = check_parity(case)
    y, x = report.tensors
    assert not report.passed
    assert y.error == pytest.approx(0.5)
    assert y.relative == pytest.approx(0.5 / 6.0)
    assert not y.passed
    assert x.passed


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ({"y": torch.tensor([0.0, 2.0, math.nan, 6.0])}, "NaN"),
        ({"y": torch.tensor([0.0, 2.0, math.inf, 6.0])}, "infinity"),
        ({"y": torch.zeros(1)}, "shape"),
        ({"z": torch.zeros(4)}, "no tensor of this name"),
        ({"y": [0.0, 2.0, 4.0, 6.0]}, "list"),
    ],
)
def test_what_cannot_be_compared_fails(case, replaying, returned, problem):
    replaying(lambda _: returned)
    report = check_parity(case)
    assert not report.passed
    assert problem in report.tensors[0].problem


def test_nothing_returned_is_a_failure(case, replaying):
    replaying(lambda _: {})
    assert not check_parity(case).passed


def test_declared_angles_are_compared_on_the_circle(case, replaying):
    turned = {"phase": torch.tensor([-math.pi, math.pi])}
    replaying(lambda _: turned, angles=("phase",))
    tensor = check_parity(case).tensors[0]
    assert tensor.error == pytest.approx(math.pi - 3.14, abs=1e-5)
    replaying(lambda _: turned)
    assert check_parity(case).tensors[0].error > 6


def test_a_paper_without_a_replay_says_so(case, replaying):
    replaying(None)
    with pytest.raises(InputError, match="mala has no replay yet"):
        check_parity(case)


def test_a_replay_that_chokes_on_the_case_is_an_input_error(case, replaying):
    replaying(lambda case_dir: {"y": torch.zeros(load_case(case_dir).config["size"])})
    with pytest.raises(InputError, match="KeyError: 'size'"):
        check_parity(case)


def test_a_case_without_weights_is_whole_until_they_are_asked_for(case, replaying):
    (case / "weights.safetensors").unlink()
    replaying(lambda case_dir: {"y": 2 * load_case(case_dir).io["x"]})
    assert check_parity(case).passed
    replaying(double)
    with pytest.raises(InputError, match=r"no weights\.safetensors"):
        check_parity(case)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[]",
        b'{"tolerance": 1e-4}',
        b'{"slug": ["mala"], "tolerance": 1e-4}',
        b'{"slug": "../../etc/passwd", "tolerance": 1e-4}',
        b'{"slug": "mala"}',
        b'{"slug": "mala", "tolerance": true}',
        b'{"slug": "mala", "tolerance": NaN}',
        b'{"slug": "mala", "tolerance": Infinity}',
        b'{"slug": "mala", "tolerance": -1}',
        b'{"slug": "mala", "tolerance": "1e9"}',
        b'{"slug": "mala", "tolerance": 1e-4, "config": 3}',
    ],
)
def test_a_hostile_description_is_refused_in_one_line(case, text):
    (case / "case.json").write_bytes(text)
    with pytest.raises(InputError) as refusal:
        check_parity(case)
    assert "\n" not in str(refusal.value)


def test_damaged_missing_and_oversized_files_are_refused(case, replaying, monkeypatch, tmp_path):
    replaying(double)
    monkeypatch.setattr(parity, "LARGEST_TENSORS", 100)
    with pytest.raises(InputError, match="at most 100"):
        check_parity(case)
    monkeypatch.undo()
    replaying(double)
    (case / "io.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(InputError, match="not a readable"):
        check_parity(case)
    (case / "io.safetensors").unlink()
    with pytest.raises(InputError, match=r"no io\.safetensors"):
        check_parity(case)
    with pytest.raises(InputError, match="not a directory"):
        check_parity(tmp_path / "nowhere")


def test_a_folder_of_cases_is_every_case_in_it(case):
    assert find_cases(case) == [case]
    assert find_cases(case.parent) == [case]


def run(*arguments: object):
    app = Typer()
    register(app)
    return CliRunner().invoke(app, ["parity", *map(str, arguments)])


def test_the_command_exits_by_outcome(case, replaying, tmp_path):
    replaying(double)
    passed = run(case)
    assert passed.exit_code == 0
    assert "y" in passed.output
    replaying(lambda _: {"y": SAVED["x"]})
    assert run(case).exit_code == 1
    (tmp_path / "empty").mkdir()
    both = run(case, tmp_path / "empty")
    assert both.exit_code == 2
    assert "1 do not, 1 could not be run" in both.output
