"""A run that was killed, at any moment, goes on bit for bit as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harken.train.loop import train
from tests.train.toy import QUICK, ToyRecipe, weights

ROOT = Path(__file__).parents[2]


def start(*command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    command = (sys.executable, "-m", *command)
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    lines = [(folder / "history.jsonl").read_text().splitlines() for folder in (one, other)]
    ours, theirs = ([{**json.loads(line), "seconds": 0} for line in text] for text in lines)
    assert ours == theirs
    for part in ("best", "last"):
        names = [path.name for path in sorted((one / part).iterdir())]
        assert names == [path.name for path in sorted((other / part).iterdir())]
        assert all((one / part / name).read_bytes() == (other / part / name).read_bytes() for name in names)


def whole(folder: Path) -> Path:
    train(ToyRecipe(adversary=True), QUICK, folder, device="cpu")
    return folder


@pytest.mark.parametrize(
    "when",
    [
        "writing after step 4",
        pytest.param("after step 3", marks=pytest.mark.slow),
        pytest.param("after step 1", marks=pytest.mark.slow),  # before anything was saved
    ],
)
def test_a_killed_run_goes_on_exactly(tmp_path, when):
    killed = start("tests.train.toy", str(tmp_path / "killed"), "6", when)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert bool(list((tmp_path / "killed").rglob("*.partial"))) == when.startswith("writing")
    train(ToyRecipe(adversary=True), QUICK, tmp_path / "killed", resume=True, device="cpu")
    assert_same_run(tmp_path / "killed", whole(tmp_path / "whole"))
    assert not list((tmp_path / "killed").rglob("*.partial"))


@pytest.mark.parametrize("adversary", [False, True])
def test_two_halves_equal_the_whole(tmp_path, adversary):
    stopped = tmp_path / "stopped"

    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 5:  # the last save was at 4
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(ToyRecipe(adversary=adversary), QUICK, stopped, device="cpu", on_step=stop)
    train(ToyRecipe(adversary=adversary), QUICK, stopped, resume=True, device="cpu")
    train(ToyRecipe(adversary=adversary), QUICK, tmp_path / "whole", device="cpu")
    assert_same_run(stopped, tmp_path / "whole")


def test_a_finished_run_is_not_trained_further_and_returns_its_best(tmp_path):
    best = train(ToyRecipe(), QUICK, tmp_path, device="cpu")
    before = weights(tmp_path)
    assert train(ToyRecipe(), QUICK, tmp_path, resume=True, device="cpu") == best
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path).items())


def test_a_run_may_be_made_longer_and_a_discriminator_may_join(tmp_path):
    constant = replace(QUICK, schedule="constant")
    train(ToyRecipe(), constant, tmp_path, device="cpu")
    train(ToyRecipe(adversary=True), replace(constant, steps=8), tmp_path, resume=True, device="cpu")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["step"] == 8
    assert state["adversary"] is not None


def test_resuming_where_nothing_was_saved_starts_anew(tmp_path):
    train(ToyRecipe(adversary=True), QUICK, tmp_path / "resumed", resume=True, device="cpu")
    assert_same_run(tmp_path / "resumed", whole(tmp_path / "whole"))


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.train.toy")
    done = start(*launcher, str(tmp_path), "6", "never")
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [2, 4, 6]  # one history, of the first process
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
