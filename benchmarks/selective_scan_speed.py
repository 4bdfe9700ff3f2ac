"""How fast is the selective scan on a CPU, and how does its memory grow?

    OMP_NUM_THREADS=1 python benchmarks/selective_scan_speed.py [--mambapy FOLDER] [--repeats 5] [--save FILE.json]

The scans of Mamba's sizes in the full-size MambAttention, 256 channels of 16 states, along the bands and along the
frames of a second of speech, and of the small preset's. Compared in one process, CPU time of one thread, median of
interleaved runs: harken's scan; its plain reference, one position after another as the equations are written; the form
that holds every state at once, ``(rows, length, channels, states)``, as reference scans in the authors' packages do;
and the parallel scan of ``mambapy`` (``pip install mambapy --no-deps --target FOLDER``). Forward alone and with its
gradient. The values must be equal, and are compared. Beside the ratios stands the time that the exponentials alone
take, which no form of this recurrence can avoid. All find freed memory again, as in harken's commands;
``--fresh-memory`` leaves that as PyTorch has it, where whatever makes large tensors waits for the kernel. Last comes
the peak memory of a gradient by length.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from harken.allocation import keep_freed_memory
from harken.layers.selective_scan import _reference, selective_scan

SIZES = {
    "full size, along time": (20, 161, 256, 16),
    "full size, along frequency": (40, 100, 256, 16),
    "small preset, along frequency": (161, 26, 64, 8),
}
LENGTHS = (10_000, 20_000, 40_000)


def inputs_of(rows: int, length: int, channels: int, states: int) -> list[Tensor]:
    """What a Mamba layer at its start gives the scan."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    delta = F.softplus(normal(rows, length, channels) - 3)
    rates = -torch.arange(1.0, states + 1).repeat(channels, 1)
    b, c = normal(rows, length, states), normal(rows, length, states)
    return [normal(rows, length, channels), delta, rates, b, c, normal(channels)]


def all_states(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Every decay and every input at once, then the recurrence on them."""
    decay = torch.exp(delta.unsqueeze(-1) * a)
    entering = (delta * u).unsqueeze(-1) * b.unsqueeze(2)
    h, states = torch.zeros_like(entering[:, 0]), []
    for t in range(u.shape[1]):
        h = decay[:, t] * h + entering[:, t]
        states.append(h)
    return (torch.stack(states, 1) @ c.unsqueeze(-1)).squeeze(-1) + d * u


def mambapy_scan(pscan: Any) -> Callable[..., Tensor]:
    """As ``mambapy`` calls it in its own Mamba block."""

    def scan(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        decay = torch.exp(delta.unsqueeze(-1) * a)
        entering = delta.unsqueeze(-1) * b.unsqueeze(2) * u.unsqueeze(-1)
        return (pscan(decay, entering) @ c.unsqueeze(-1)).squeeze(3) + d * u

    return scan


def exponentials(given: list[Tensor]) -> None:
    """What cannot be avoided: one exponential a state and position, in pieces that fit a cache."""
    rows, length, channels = given[0].shape
    states = given[2].shape[1]
    piece = torch.full((max(1, (1 << 16) // (channels * states)), states, channels), -0.5)
    out = torch.empty_like(piece)
    for _ in range(rows * length * channels * states // piece.numel()):
        torch.exp(piece, out=out)


def with_gradient(scan: Callable[..., Tensor], given: list[Tensor]) -> None:
    for x in given:
        x.requires_grad_().grad = None
    scan(*given).sum().backward()


def cpu_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median CPU time of each, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if number:  # the first round warms up
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def peak_of(length: int) -> float:
    """Megabytes that a gradient over ``length`` positions adds to a fresh process."""
    command = [sys.executable, __file__, "--peak", str(length)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(length: int) -> None:
    """In a process of its own: peak memory after a short gradient, and after a long one."""
    with_gradient(harken_scan, inputs_of(2, 16, 256, 16))
    before = peak_kilobytes()
    with_gradient(harken_scan, inputs_of(2, length, 256, 16))
    print((peak_kilobytes() - before) / 1024)


def peak_kilobytes() -> int:
    """Of this process; getrusage would tell the parent's, which Linux passes on."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def harken_scan(*given: Tensor) -> Tensor:
    return selective_scan(*given)[0]


def reference_scan(*given: Tensor) -> Tensor:
    return _reference(*given)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mambapy", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--fresh-memory", action="store_true")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.peak:
        return print_peak(args.peak)
    keeps = not args.fresh_memory and keep_freed_memory()
    scans: dict[str, Callable[..., Tensor]] = {
        "harken": harken_scan,
        "reference": reference_scan,
        "all states at once": all_states,
    }
    if args.mambapy:
        sys.path.insert(0, str(args.mambapy))
        from mambapy.pscan import pscan

        scans["mambapy"] = mambapy_scan(pscan)
    rows = []
    for name, size in SIZES.items():
        given = inputs_of(*size)
        wanted = scans["reference"](*(x.double() for x in given))
        errors = {label: float((scan(*given) - wanted).abs().max()) for label, scan in scans.items()}
        forward: dict[str, Callable[[], Any]] = {label: partial(scan, *given) for label, scan in scans.items()}
        forward["exponentials alone"] = partial(exponentials, given)
        gradient: dict[str, Callable[[], Any]] = {
            label: partial(with_gradient, scan, given) for label, scan in scans.items()
        }
        for way, runs in (("forward", forward), ("with gradient", gradient)):
            seconds = cpu_seconds(runs, args.repeats)
            row = {
                "scan": name,
                "rows, length, channels, states": size,
                "way": way,
                "nanoseconds_per_state": {k: 1e9 * v / math.prod(size) for k, v in seconds.items()},
                "ratio": {k: v / seconds["harken"] for k, v in seconds.items()},
                "largest_error": errors,
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    peaks = {str(length): peak_of(length) for length in LENGTHS}
    rows.append({"megabytes_of_a_gradient_by_length": peaks})
    print(json.dumps(rows[-1]), flush=True)
    if args.save:
        args.save.write_text(
            json.dumps({"torch": torch.__version__, "keeps freed memory": keeps, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
