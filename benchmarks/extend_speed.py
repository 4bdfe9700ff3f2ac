"""How fast does ``harken extend`` run here? About a minute on two cores; ``--authors`` adds half.

    python benchmarks/extend_speed.py [--authors CLONE] [--seconds 1 4] [--clock cpu] [--save FILE.json]

Random weights. Timed from waveform to waveform, interleaved in one process: the small preset and the paper's size, for
16 and 48 kHz; copies of the lower band; and, with a clone of github.com/yxlu-0102/AP-BWE, the authors' generator with
the same weights, whose output must be equal. Printed: the real-time factor (seconds of work for a second of sound,
below 1 is faster than playing), its inverse, ratios, and the share of the speed of this machine's matrix products that
the arithmetic reaches. ``--clock cpu`` counts the process's own time instead of the wall's: what one thread
(``OMP_NUM_THREADS=1``) would take on a machine that others leave alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harken.models.enhance.ap_bwe import APBWE, APBWEConfig
from harken.signal.band_replication import BandReplication

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
MATMUL_FLOPS = 2 * 1536**3


def authors_generator(clone: Path) -> nn.Module:
    """The generator of a clone of the authors' repository, with random weights."""
    sys.path.insert(0, str(clone))
    from models.model import APNet_BWE_Model  # type: ignore[import-not-found]

    settings = json.loads((clone / "configs" / "config_8kto16k.json").read_text())
    return APNet_BWE_Model(SimpleNamespace(**settings)).eval()


def through(generator: nn.Module, model: APBWE, waveform: Tensor) -> Tensor:
    """From waveform to waveform by another generator: both use the same spectra."""
    made = generator(*model.analyse(waveform))
    return model.synthesise(made[0], made[1], waveform.shape[-1])


def seconds(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Time of one call."""
    started = clock()
    call()
    return clock() - started


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--seconds", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    clock = CLOCKS[arguments.clock]
    theirs = authors_generator(arguments.authors) if arguments.authors else None
    full = (APBWE(APBWEConfig()) if theirs is None else APBWE.from_authors(theirs.state_dict())).eval()
    small = APBWE(APBWEConfig.small()).eval()
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "clock": arguments.clock}
    report["lengths"] = []
    print(f"{report['threads']} threads, {arguments.clock} time")
    with torch.inference_mode():
        for rate in (16000, 48000):
            for length in arguments.seconds:
                waveform = torch.randn(1, length * rate)
                calls: dict[str, Callable[[], Tensor]] = {
                    "paper": partial(full.extend, waveform),
                    "small": partial(small.extend, waveform),
                    "copy-up": partial(BandReplication(rate, rate // 2).extend, waveform),
                }
                if theirs is not None:
                    calls["authors"] = partial(through, theirs, full, waveform)
                with FlopCounterMode(display=False) as counter:
                    wanted = calls["paper"]()
                times: dict[str, list[float]] = {name: [] for name in calls}
                products = []
                square = torch.randn(1536, 1536)
                for _ in range(arguments.rounds):
                    for name, call in calls.items():
                        times[name].append(seconds(clock, call) / length)
                    products.append(seconds(clock, lambda square=square: square @ square))  # type: ignore[misc]
                middle = {name: statistics.median(values) for name, values in times.items()}
                flops = counter.get_total_flops() / length
                speed = MATMUL_FLOPS / statistics.median(products)
                entry = {
                    "sample_rate": rate,
                    "seconds": length,
                    "real_time_factor": {name: round(value, 4) for name, value in middle.items()},
                    "times_real_time": {name: round(1 / value, 1) for name, value in middle.items()},
                    "times_paper": {name: round(value / middle["paper"], 3) for name, value in middle.items()},
                    "gflop_per_second_of_audio": round(flops / 1e9, 2),
                    "share_of_matmul_speed": round(flops / middle["paper"] / speed, 3),
                }
                if theirs is not None:
                    entry["largest_difference"] = float((calls["authors"]() - wanted).abs().max())
                report["lengths"].append(entry)
                print(json.dumps(entry), flush=True)
                if arguments.save:
                    arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
