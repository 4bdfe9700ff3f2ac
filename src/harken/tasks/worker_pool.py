"""A pool of processes that work through jobs; one that dies costs the job it had, and another takes its place."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from harken.tasks.recordings import Progress

Preparation = Callable[[Progress | None], Callable[[Any], Any]]
"""What a worker is started with: called once with where progress is told, it loads what is needed and gives what does
one job. It travels to the processes, so it is a dataclass or a function of a module, not a closure."""


@dataclass(frozen=True)
class WorkerDied:
    """In place of a result: the process that did the job ended in the middle of it."""

    reason: str


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_in_processes(
    jobs: Sequence[Any], prepare: Preparation, *, workers: int, progress: Progress | None = None
) -> Iterator[tuple[int, Any]]:
    """Do jobs in several processes, and give ``(index, result)`` in the order in which they are finished.

    The processors are divided among the workers. A process that dies, killed for its memory or by a fault in native
    code, gives :class:`WorkerDied` for its job; the other jobs are done all the same. Whoever stops iterating stops the
    workers, which remove what they had half written.

    Args:
        jobs: what the workers' function takes, one at a time; they travel to the processes, as results do back.
        prepare: run once in every process.
        workers: how many processes, at most one a job.
        progress: told, in this process, what the workers tell.

    Raises:
        RuntimeError: a worker could not prepare itself, or the function raised: it should answer with its errors.
    """
    waiting = list(enumerate(jobs))[::-1]
    team = [_Worker(prepare, max(1, processors() // workers)) for _ in range(min(workers, len(jobs)))]
    try:
        for worker in team:
            worker.give(waiting)
        while busy := {worker.pipe: (worker, worker.index) for worker in team if worker.index is not None}:
            ready = wait(list(busy))
            for pipe in [end for end in busy if end in ready]:
                worker, index = busy[pipe]
                try:
                    kind, *answer = pipe.recv()
                except (EOFError, OSError):
                    yield index, WorkerDied(worker.stop())
                    team.remove(worker)
                    if waiting:
                        team.append(_Worker(prepare, worker.threads))
                        team[-1].give(waiting)
                    continue
                if kind == "progress":
                    if progress:
                        progress(*answer)
                elif kind == "result":
                    worker.give(waiting)
                    yield index, answer[0]
                else:
                    raise RuntimeError(answer[0])
    finally:
        for worker in team:
            worker.stop()


class _Worker:
    """One process, seen from outside: what it works on, and the pipe to it."""

    def __init__(self, prepare: Preparation, threads: int):
        context = get_context("spawn")  # a fork would inherit locks of torch's threads
        self.pipe, theirs = context.Pipe()
        self.threads = threads
        self.index: int | None = None  # of the job it has
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs, prepare, threads), daemon=True)
        self.process.start()
        theirs.close()

    def give(self, waiting: list[tuple[int, Any]]) -> None:
        """Hand over the next job, if there is one."""
        self.index = None
        if waiting:
            self.index, job = waiting.pop()
            with suppress(OSError):  # it died between two jobs: the pipe's end tells
                self.pipe.send(job)

    def stop(self) -> str:
        """End the process, and say how it ended."""
        self.pipe.close()  # an idle process ends by itself
        self.process.join(0.5 if self.index is None else 0)
        if self.process.is_alive() and self.index is not None:
            self.process.join(0.2)  # one that is dying has an exit code in a moment
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(10)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in signal.valid_signals() else str(-code)
            hint = ": not enough memory? choose a smaller chunk or fewer workers" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{hint}"
        return f"its process ended with code {code}"


def _serve(pipe: Connection, prepare: Preparation, threads: int) -> None:
    """What a process does: prepare, then one job after the other until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends its workers
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception: half-written files are removed
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            work = prepare(lambda *told: pipe.send(("progress", *told)))
            while True:
                pipe.send(("result", work(pipe.recv())))
        except Exception as error:
            if isinstance(error, (EOFError, BrokenPipeError, ConnectionResetError)):
                raise
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
