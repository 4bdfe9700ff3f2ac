"""How fast is the full-size MP-SENet here? About two minutes on two cores; ``--authors`` doubles that.

    python benchmarks/mp_senet_speed.py [--authors CLONE] [--seconds 2 4 10] [--clock cpu] [--save FILE.json]

Random weights of the released layout. Compared, interleaved in one process: harken's generator; the plain form of its
parts (sequence-first ``nn.MultiheadAttention`` that returns its weights, and ``nn.GRU``), which is what the paper's
code runs; and, with a clone of github.com/yxlu-0102/MP-SENet, that code itself, whose output must be equal. The small
preset is timed beside them. Printed: seconds per second of audio, ratios, and the share of this machine's matrix
products that the arithmetic reaches. ``--clock cpu`` counts the process's own time instead of the wall's: what one
thread (``OMP_NUM_THREADS=1``) would take on a machine that others leave alone.
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
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harken.models.enhance.mp_senet import MPSENet, MPSENetConfig, RecurrentFFN, TransformerBlock


class PlainAttention(nn.Module):
    """Self-attention as the paper's code calls it: the weights are made, averaged and thrown away."""

    def __init__(self, ours: Any):
        super().__init__()
        self.attention = nn.MultiheadAttention(ours.dim, ours.heads)
        self.attention.in_proj_weight, self.attention.in_proj_bias = ours.in_proj.weight, ours.in_proj.bias
        self.attention.out_proj.weight, self.attention.out_proj.bias = ours.out_proj.weight, ours.out_proj.bias

    def forward(self, x: Tensor) -> Tensor:
        """Rows first in and out."""
        x = x.transpose(0, 1).contiguous()
        return self.attention(x, x, x)[0].transpose(0, 1)


class PlainFFN(nn.Module):
    """The recurrent part through ``nn.GRU``."""

    def __init__(self, ours: RecurrentFFN):
        super().__init__()
        self.gru, self.linear = ours.gru, ours.linear

    def forward(self, x: Tensor) -> Tensor:
        """Rows first in and out."""
        return self.linear(F.leaky_relu(self.gru(x)[0]))


def plain(model: MPSENet) -> MPSENet:
    """The same weights through the plain parts."""
    import copy

    model = copy.deepcopy(model)
    for block in model.modules():
        if isinstance(block, TransformerBlock):
            block.attention = PlainAttention(block.attention)
            block.ffn = PlainFFN(block.ffn)  # type: ignore[arg-type]
    return model.eval()


def authors_generator(clone: Path) -> nn.Module:
    """The generator of a clone of the authors' repository, with random weights."""
    sys.path.insert(0, str(clone))
    from models.model import MPNet  # type: ignore[import-not-found]

    settings = json.loads((clone / "config.json").read_text())
    return MPNet(SimpleNamespace(**{"num_tsblocks": 4, **settings})).eval()


CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
MATMUL_FLOPS = 2 * 1536**3


def matmul_seconds(clock: Callable[[], float]) -> float:
    """Best of a few large float32 products of ``MATMUL_FLOPS``."""
    a, b = torch.randn(2, 1536, 1536)
    return min(seconds(clock, lambda: a @ b) for _ in range(8))


def seconds(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Time of one call."""
    started = clock()
    call()
    return clock() - started


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--seconds", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    theirs = authors_generator(arguments.authors) if arguments.authors else None
    ours = MPSENet(MPSENetConfig.released()) if theirs is None else MPSENet.from_authors(theirs.state_dict())
    models: dict[str, nn.Module] = {"harken": ours.eval(), "plain": plain(ours)}
    if theirs is not None:
        models["authors"] = theirs
    models["small"] = MPSENet(MPSENetConfig.small()).eval()
    clock = CLOCKS[arguments.clock]
    report: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__, "clock": arguments.clock}
    report["lengths"] = {}
    print(f"{report['threads']} threads, {arguments.clock} time")
    with torch.inference_mode():
        for length in arguments.seconds:
            spectrum = ours.spectrum(torch.randn(1, length * ours.sample_rate))
            with FlopCounterMode(display=False) as counter:
                models["plain"](*spectrum)
            wanted = models["plain"](*spectrum)[0]
            equal = [model for name, model in models.items() if name != "small"]
            difference = max(float((model(*spectrum)[0] - wanted).abs().max()) for model in equal)
            times: dict[str, list[float]] = {name: [] for name in models}
            products = []
            for _ in range(arguments.rounds):
                for name, model in models.items():
                    times[name].append(seconds(clock, partial(model, *spectrum)) / length)
                products.append(matmul_seconds(clock))
            speed = MATMUL_FLOPS / statistics.median(products) / 1e9
            middle = {name: statistics.median(values) for name, values in times.items()}
            flops = counter.get_total_flops()
            entry = {
                "seconds_per_second": {name: round(value, 3) for name, value in middle.items()},
                "times_harken": {name: round(value / middle["harken"], 2) for name, value in middle.items()},
                "gflop_per_second_of_audio": round(flops / length / 1e9, 1),
                "matmul_gflops": round(speed, 1),
                "share_of_matmul_speed": round(flops / length / 1e9 / middle["harken"] / speed, 3),
                "largest_difference": difference,
            }
            report["lengths"][length] = entry
            print(f"{length} s: {json.dumps(entry)}", flush=True)
            if arguments.save:
                arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
