"""Processes that share jobs: results whole, and a death that costs one job."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

import pytest

from harken.tasks.worker_pool import WorkerDied, processors, work_in_processes


@pytest.fixture
def jobs(monkeypatch):
    """The module that the processes find on the path which they inherit."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("pool_jobs")


def test_a_process_that_is_killed_costs_its_job_alone(jobs):
    told = []
    results = dict(work_in_processes([1, 2, -1, 3], jobs.Square, workers=1, progress=lambda *seen: told.append(seen)))
    died = results.pop(2)
    assert results == {0: 1, 1: 4, 3: 9}
    assert isinstance(died, WorkerDied) and "SIGKILL" in died.reason and "memory" in died.reason
    assert ("job", 3, 10) in told


def test_jobs_are_shared_and_so_are_the_processors(jobs):
    results = dict(work_in_processes([0.0] * 6, jobs.Square, workers=2))
    assert len(results) == 6
    assert os.getpid() not in {pid for pid, _ in results.values()}
    assert {threads for _, threads in results.values()} == {max(1, processors() // 2)}


def test_a_worker_that_cannot_start_is_an_error_for_all(jobs):
    with pytest.raises(RuntimeError, match="no weights"):
        list(work_in_processes([1, 2], jobs.Refuses, workers=1))


def test_whoever_stops_leaves_nothing_half_done(jobs, tmp_path):
    def stop(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(work_in_processes([tmp_path / "a"], jobs.LeavesATrace, workers=1, progress=stop))
    assert list(tmp_path.iterdir()) == []
