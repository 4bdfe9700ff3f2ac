"""How fast is a ridge path here? One eigendecomposition for all regularizations against a solve each, and mTRF.

    OMP_NUM_THREADS=1 python benchmarks/temporal_response_speed.py [--mtrf FOLDER] [--save FILE.json]

Made-up trials (noise), CPU time of one thread, median of interleaved runs. Compared for a backward model of 16 channels
and 8 trials of 30 s at 64 Hz: paths of 5, 20 and 100 regularizations by one eigendecomposition and by a solve each; a
choice among 10 by leaving each trial out, here and in mTRF (``pip download --no-deps mtrf``, unpacked into FOLDER),
whose correlations must be the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harken.signal.temporal_response import Moments, _ridge_path_reference, lag_range, leave_one_out, ridge_path

SFREQ, TMIN, TMAX = 64.0, 0.0, 0.35


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Of each, interleaved, in CPU time."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mtrf", type=Path)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    envelope = torch.randn(args.trials, int(30 * SFREQ), 1, generator=generator)
    mixing = torch.randn(1, args.channels, generator=generator)
    brain = envelope @ mixing + 5 * torch.randn(args.trials, envelope.shape[1], args.channels, generator=generator)
    several = [10.0**power for power in range(-3, 7)]
    lags = lag_range(TMIN, TMAX, SFREQ, "backward")
    moments = Moments.of(brain, envelope, lags)
    rows = []
    for count in (5, 20, 100):
        many = np.geomspace(1e-3, 1e6, count).tolist()
        path: dict[str, Callable[[], Any]] = {
            "one eigendecomposition": lambda many=many: ridge_path(moments, many, SFREQ),
            "a solve each": lambda many=many: _ridge_path_reference(moments, many, SFREQ),
        }
        seconds = median_seconds(path, args.repeats)
        difference = (ridge_path(moments, many, SFREQ) - _ridge_path_reference(moments, many, SFREQ)).abs().max()
        rows.append(
            {
                "task": f"path of {count}, {len(moments.gram)} columns",
                "seconds": seconds,
                "ratio": {name: value / seconds["one eigendecomposition"] for name, value in seconds.items()},
                "largest_difference": float(difference),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if args.mtrf:
        sys.path.insert(0, str(args.mtrf))
        from mtrf.model import TRF
        from mtrf.stats import crossval

        stimulus = [trial.numpy().astype(np.float64) for trial in envelope]
        response = [trial.numpy().astype(np.float64) for trial in brain]

        def theirs() -> np.ndarray:
            found = []
            for value in several:
                model = TRF(direction=-1)
                model.train(stimulus, response, SFREQ, TMIN, TMAX, value)
                found.append(crossval(model, stimulus, response, SFREQ, TMIN, TMAX, value, verbose=False))
            return np.array(found, dtype=object)

        choice: dict[str, Callable[[], Any]] = {
            "harken": lambda: leave_one_out(brain, envelope, SFREQ, lags, several),
            "mtrf": theirs,
        }
        seconds = median_seconds(choice, 1)
        ours = leave_one_out(brain, envelope, SFREQ, lags, several).mean((0, 2)).numpy()
        other = np.array([float(np.mean(np.atleast_1d(row)[0])) for row in theirs()])
        rows.append(
            {
                "task": f"leave one of {args.trials} out, {len(several)} regularizations",
                "seconds": seconds,
                "ratio": {name: value / seconds["harken"] for name, value in seconds.items()},
                "largest_difference": float(np.abs(ours - other).max()),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
