"""What the workers of test_worker_pool.py do: a module of its own, since their processes import it."""

from __future__ import annotations

import os
import signal
import time

import torch


class Square:
    """Squares its job; a negative one kills the process, None makes it fail, a float says where it runs."""

    def __init__(self, progress):
        self.progress = progress

    def __call__(self, job):
        if isinstance(job, float):
            return os.getpid(), torch.get_num_threads()
        if job < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.progress("job", job, 10)
        return job * job


class Refuses:
    def __init__(self, progress):
        raise ValueError("no weights")


class LeavesATrace:
    """Writes a file and removes it at the end, whatever the end is."""

    def __init__(self, progress):
        self.progress = progress

    def __call__(self, path):
        path.touch()
        self.progress(str(path), 0, 1)
        try:
            time.sleep(60)
        finally:
            path.unlink()
