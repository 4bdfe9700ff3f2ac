"""Which clock a measurement reads."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def processor_clock() -> Callable[[], float]:
    """With one thread the process's own time, which other work on the machine leaves alone; else the wall's."""
    return time.process_time if torch.get_num_threads() == 1 and not torch.cuda.is_available() else time.perf_counter
