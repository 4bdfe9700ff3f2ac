"""How a process of ours asks the system for memory: once, not anew for every large tensor."""

from __future__ import annotations

import ctypes
import sys

# of glibc's mallopt: give nothing back below, ask for so much at once, map nothing apart
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Let the C library keep what large tensors free, for the next ones; True where it can be told so.

    glibc maps every block above 32 MB afresh, and the kernel clears each of its pages at the first touch: up to a third
    of the time of an elementwise operation on long sequences. Only for processes that are ours from beginning to end,
    such as the command line's: what is freed is then not given back to the system before the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(
        mallopt(what, value) for what, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**28))
    )
