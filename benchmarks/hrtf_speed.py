"""How fast are the fit and the network behind ``harken hrtf upsample``? Under a minute on one core.

    OMP_NUM_THREADS=1 python benchmarks/hrtf_speed.py [--save FILE.json]

Random listeners and weights; processor time, interleaved, medians. First the coefficients of a batch of listeners
measured in the same directions: least squares solved for each listener with its harmonics computed anew (as a data
loader that knows no grid does it), and one product with an inverse that is computed once. Then milliseconds for each
listener through the network, from coefficients to coefficients, and from measured directions to all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harken.data.hrtf import cipic_directions, spread_directions
from harken.models.enhance.hrtfformer import HRTFformer
from harken.signal.spherical_harmonics import SphericalFit, sparse_degree


def milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median of processor time."""
    times = []
    call()
    for _ in range(rounds):
        started = time.process_time()
        call()
        times.append(1000 * (time.process_time() - started))
    return statistics.median(times)


def main() -> None:
    """Time, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listeners", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    grid, batch = torch.from_numpy(cipic_directions()), arguments.listeners
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "clock": "cpu", "fit": []}
    for name, at, degree in [
        *(
            (f"{points} directions", grid[spread_directions(grid.numpy(), points)], sparse_degree(points))
            for points in (5, 19, 100)
        ),
        ("1250 directions", grid, 21),
    ]:
        fields = torch.randn(batch if len(at) < 1000 else 4, len(at), 210)
        fit = SphericalFit(at, degree)

        def one_by_one(at: Any = at, degree: int = degree, fields: Any = fields) -> None:
            for field in fields:
                basis = SphericalFit(at, degree, ridge=1.0).basis.float()
                torch.linalg.lstsq(basis, field, driver="gelsd")

        each = milliseconds(one_by_one, arguments.rounds) / len(fields)
        once = milliseconds(lambda fit=fit, fields=fields: fit.coefficients(fields), arguments.rounds) / len(fields)  # type: ignore[misc]
        report["fit"].append(
            {
                "measured": name,
                "degree": degree,
                "ms_each": round(each, 3),
                "ms_once": round(once, 4),
                "ratio": round(each / once),
            }
        )
        print(json.dumps(report["fit"][-1]), flush=True)
    small, paper = HRTFformer(HRTFformer.Config.small()).eval(), HRTFformer(HRTFformer.Config.paper()).eval()
    x = torch.randn(8, 256, 210)
    points = grid[spread_directions(grid.numpy(), 19)]
    with torch.inference_mode():
        small.mean_field(points)
        report["network_ms_per_listener"] = {
            "small": round(milliseconds(lambda: small(x), arguments.rounds) / 8, 2),
            "small, directions to directions": round(
                milliseconds(lambda: small.predict(torch.randn(1, 19, 210), points, grid), arguments.rounds), 2
            ),
            "paper": round(milliseconds(lambda: paper(torch.randn(8, 16, 256)), arguments.rounds) / 8, 2),
        }
    report["parameters"] = {
        name: sum(p.numel() for p in model.parameters()) for name, model in (("small", small), ("paper", paper))
    }
    print(json.dumps({name: report[name] for name in ("network_ms_per_listener", "parameters")}))
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
