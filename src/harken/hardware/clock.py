"""Which clock a measurement reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


def processor_clock() -> Callable[[], float]:
    """With one thread the process's own time, which other work on the machine leaves alone; else the wall's."""
    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside, so that the clock is the processor's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
