"""How fast does ``harken separate`` run here, and how much memory does it take? About three minutes on one thread.

    python benchmarks/separate_speed.py [--authors CLONE] [--seconds 10] [--clock cpu] [--memory] [--save FILE.json]

Random weights, interleaved in one process: Demucs of the paper's size (265.7 million parameters), its 48-channel form
and the small presets, from waveform to waveforms; the doubling and halving of the rate; and, where they can be
imported, the authors' Demucs with the same weights (a clone of github.com/facebookresearch/demucs at v2.0.1, commit
3836a10, and the package julius), whose output must be equal, and julius's resampling. Printed: the real-time factor
(seconds of work for a second of sound), ratios, and the share of the speed of this machine's matrix products that the
arithmetic reaches. ``--clock cpu`` counts the process's own time. ``--memory`` separates a file of ten minutes by the
paper's size with 4 channels in place of 64 in a process of its own, and tells by how much its memory grew beyond that
of one minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from harken.models.separate.conv_tasnet import ConvTasNet, ConvTasNetConfig
from harken.models.separate.demucs import Demucs, DemucsConfig
from harken.signal.sinc_resampling import SincResampler

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
MATMUL_FLOPS = 2 * 1536**3
TOGETHER = "paper, 4 segments at once"  # as harken separate does
MUSIC = ("drums", "bass", "other")
MEMORY = """
import resource, sys, tempfile
from pathlib import Path
import numpy as np
from harken.data.audio import open_writer
from harken.models.separate.demucs import Demucs, DemucsConfig
from harken.tasks.separate_files import separate_files
with tempfile.TemporaryDirectory() as folder:
    rng = np.random.default_rng(0)
    with open_writer(Path(folder) / "a.wav", 44100, 2) as writer:
        for _ in range(int(sys.argv[1])):
            writer.write((0.1 * rng.standard_normal((44100, 2))).astype(np.float32))
    separate_files(Path(folder) / "a.wav", model=Demucs(DemucsConfig(channels=4)))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def authors_demucs(clone: Path) -> nn.Module:
    """The Demucs of a clone of the authors' repository at its default size, with random weights."""
    sys.path.insert(0, str(clone))
    sys.modules.setdefault("diffq", ModuleType("diffq"))  # imported by the package, not used by the model
    for name in ("DiffQuantizer", "UniformQuantizer"):
        setattr(sys.modules["diffq"], name, SimpleNamespace)
    from demucs.model import Demucs as Theirs  # type: ignore[import-not-found]

    return Theirs(sources=list(DemucsConfig().sources)).eval()


def time_of(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Of one call."""
    started = clock()
    call()
    return clock() - started


def main() -> None:
    """Time, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    theirs = authors_demucs(arguments.authors) if arguments.authors else None
    config = DemucsConfig()
    paper = (Demucs(config) if theirs is None else Demucs.from_authors(theirs.state_dict(), config)).eval()
    small, speech = DemucsConfig.small(MUSIC, 22050, 2), DemucsConfig.small()
    models = {
        "paper": paper,
        "48 channels": Demucs(replace(config, channels=48)).eval(),
        "small, music": Demucs(small).eval(),
        "small, speech": Demucs(speech).eval(),
        "conv-tasnet small, speech": ConvTasNet(ConvTasNetConfig.small()).eval(),
    }
    report: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": arguments.clock,
        "seconds": arguments.seconds,
    }
    clock = CLOCKS[arguments.clock]
    calls: dict[str, Callable[[], Tensor]] = {}
    for name, model in models.items():
        samples = model.valid_length(round(arguments.seconds * model.sample_rate))
        calls[name] = partial(model, torch.randn(1, model.audio_channels, samples))
    mix = torch.randn(1, 2, paper.valid_length(round(arguments.seconds * 44100)))
    calls["paper"] = partial(paper, mix)
    calls[TOGETHER] = partial(paper, mix.expand(4, -1, -1))
    if theirs is not None:
        calls["authors"] = partial(theirs, mix)
    double, halve, twice = SincResampler(1, 2), SincResampler(2, 1), torch.randn(1, 2, 2 * mix.shape[-1])
    calls |= {"double the rate": partial(double, mix), "halve the rate": partial(halve, twice)}
    try:
        import julius  # type: ignore[import-not-found]
    except ImportError:
        pass
    else:
        calls["double the rate, julius"] = partial(julius.ResampleFrac(1, 2), mix)
        calls["halve the rate, julius"] = partial(julius.ResampleFrac(2, 1), twice)
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            wanted = calls["paper"]()
        if theirs is not None:
            report["largest_difference"] = float((calls["authors"]() - wanted).abs().max() / wanted.abs().max())
        times: dict[str, list[float]] = {name: [] for name in calls}
        products, square = [], torch.randn(1536, 1536)
        for _ in range(arguments.rounds):
            for name, call in calls.items():
                segments = 4 if name == TOGETHER else 1
                times[name].append(time_of(clock, call) / segments / arguments.seconds)
            products.append(time_of(clock, lambda: square @ square))
    middle = {name: statistics.median(values) for name, values in times.items()}
    report["real_time_factor"] = {name: round(value, 5) for name, value in middle.items()}
    report["times_real_time"] = {name: round(1 / value, 1) for name, value in middle.items()}
    speed = MATMUL_FLOPS / statistics.median(products)
    report["gflop_per_second_of_audio"] = round(counter.get_total_flops() / 1e9 / arguments.seconds, 1)
    report["share_of_matmul_speed"] = round(counter.get_total_flops() / arguments.seconds / middle["paper"] / speed, 3)
    for ours, other in (
        ("paper", "authors"),
        (TOGETHER, "authors"),
        ("double the rate", "double the rate, julius"),
        ("halve the rate", "halve the rate, julius"),
    ):
        if other in middle:
            report[f"times_as_fast: {ours}"] = round(middle[other] / middle[ours], 2)
    if arguments.memory:
        report["peak_mib"] = {}
        for minutes in (1, 10):
            command = [sys.executable, "-c", MEMORY, str(60 * minutes)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            report["peak_mib"][f"{minutes} min"] = round(float(told), 1)
    print(json.dumps(report, indent=2))
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
