"""How fast is Burg's method here? All channels at once, plain and warped, against turbolpc's loops.

    OMP_NUM_THREADS=1 python benchmarks/burg_speed.py [--turbolpc FOLDER] [--save FILE.json]

One segment of LiPCoT's data: 2500 samples of 59 channels, order 16, double precision, warp 0.2 and none; CPU time of
one thread, median of interleaved runs. Compared: harken's batch; turbolpc 1.0.0 (from the registry:
``pip download --no-deps turbolpc``, unpacked into FOLDER) with all channels as a matrix, where the warped form loops
over samples in Python, and channel by channel (timed on four and scaled); and the matrix loop written out here, for
where turbolpc is not at hand. Coefficients must be equal.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harken.signal.lpc import burg

SAMPLES, CHANNELS, ORDER, SOME = 2500, 59, 16, 4


def looped(x: np.ndarray, order: int, warp: float) -> np.ndarray:
    """Reflection coefficients of columns, sample after sample."""
    f, b, found = x.copy(), x.copy(), []
    for _ in range(order):
        c = np.empty_like(b[:-1])
        c[0] = b[0] - warp * b[1]
        for t in range(1, len(c)):
            c[t] = b[t] - warp * (b[t + 1] - c[t - 1])
        f = f[1:]
        k = -2 * (f * c).sum(0) / ((f * f).sum(0) + (c * c).sum(0))
        f, b = f + k * c, c + k * f
        found.append(k)
    return np.stack(found)


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU time of each, interleaved; what is far slower than the first is run less often."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(repeats):
        for name, run in runs.items():
            if number and taken[name][0] > 0.5:
                continue
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turbolpc", type=Path)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = np.random.default_rng(0).standard_normal((SAMPLES, CHANNELS))
    rows = torch.from_numpy(np.ascontiguousarray(x.T))
    analysis: Any = None
    if args.turbolpc:
        if not hasattr(np, "row_stack"):  # which NumPy 2 lacks
            np.row_stack = np.vstack
        sys.path.insert(0, str(args.turbolpc))
        analysis = import_module("turbolpc.analysis")
    results = []
    for warp in (0.2, 0.0):
        runs: dict[str, Callable[[], Any]] = {
            "harken": lambda warp=warp: burg(rows, ORDER, warp),  # type: ignore[misc]
            "written out": lambda warp=warp: looped(x, ORDER, warp),  # type: ignore[misc]
        }
        if analysis is not None:

            def matrix(warp: float = warp) -> Any:
                return analysis.arburg_warped_matrix(x, ORDER, warp) if warp else analysis.arburg_matrix(x, ORDER)

            def vectors(warp: float = warp) -> Any:
                columns = x[:, :SOME].T
                if warp:
                    return [analysis.arburg_warped_vector(column.copy(), ORDER, warp) for column in columns]
                return [analysis.arburg_vector(column.copy(), ORDER) for column in columns]

            runs |= {"turbolpc, matrix": matrix, "turbolpc, vectors": vectors}
        runs["harken"]()
        seconds = median_seconds(runs, args.repeats)
        if "turbolpc, vectors" in seconds:
            seconds["turbolpc, vectors"] *= CHANNELS / SOME
        model = burg(rows, ORDER, warp)
        difference = float(np.abs(model.reflection.numpy().T - looped(x, ORDER, warp)).max())
        if analysis is not None:
            difference = max(difference, float(np.abs(model.coefficients.numpy().T - matrix()[0]).max()))
        results.append({
            "warp": warp,
            "milliseconds": {name: 1000 * value for name, value in seconds.items()},
            "ratio": {name: value / seconds["harken"] for name, value in seconds.items()},
            "largest_difference": difference,
        })  # fmt: skip
        print(json.dumps(results[-1]), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "rows": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
