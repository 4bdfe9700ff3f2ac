"""How fast chirps are drawn, and what merging low-rank updates saves.

    OMP_NUM_THREADS=1 python benchmarks/chirp_speed.py [--authors FOLDER] [--count 200] [--save FILE.json]

Drawing: ``chirp_spectrograms`` for a batch against the same loop over pixels that the released generator runs, restated
here; with ``--authors``, a folder that holds the package chirp-spectrogram-generator (unpacked, not installed), also
against its ``create_spectrogram_with_chirp``. No files or figures are written by any. Updates: four layers of the
published network, forward, with rank 8 apart and merged. Median of interleaved runs, CPU time, one thread.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harken.data.chirps import ChirpGrid, Chirps, _reference, chirp_spectrograms, draw_chirps
from harken.layers.lora import merge_updates, unmerge_updates
from harken.models.brain.chirp import ChirpLocalizer, ChirpLocalizerConfig


def medians(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """CPU seconds, interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(repeats):
        for name, run in runs.items():
            start = time.process_time()
            run()
            taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def authors(folder: Path, chirps: Chirps) -> Callable[[], Any]:
    """Their generator on the same chirps."""
    import tempfile

    sys.path.insert(0, str(folder))
    sys.modules.setdefault("pandas", types.ModuleType("pandas"))  # imported by it, and not used
    from chirp_spectrogram_generator import SpectrogramGenerator  # type: ignore[import-not-found]

    generator = SpectrogramGenerator(output_dir=tempfile.mkdtemp())

    def run() -> None:
        for n in range(len(chirps)):
            kind = "exponential" if chirps.is_exponential[n] else "linear"
            generator.create_spectrogram_with_chirp(
                chirps.start_time[n], chirps.start_frequency[n], chirps.end_frequency[n], chirps.duration[n], kind
            )

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    grid, rows = ChirpGrid(), []
    chirps = draw_chirps(args.count, grid, seed=1)
    rng = np.random.default_rng(0)

    def loop() -> np.ndarray:
        noise = rng.standard_normal((args.count, grid.frequencies, grid.times))
        return _reference(chirps, grid, noise, rng.uniform(*grid.noise, args.count))

    runs: dict[str, Callable[[], Any]] = {"batch": lambda: chirp_spectrograms(chirps, grid), "loop": loop}
    if args.authors:
        runs["authors"] = authors(args.authors, chirps)
    seconds = medians(runs, args.repeats)
    rows.append(
        {
            "what": f"{args.count} spectrograms of 128 x 128",
            "pictures_per_second": {name: args.count / value for name, value in seconds.items()},
            "ratio": {name: value / seconds["batch"] for name, value in seconds.items()},
        }
    )
    print(json.dumps(rows[-1]), flush=True)
    torch.manual_seed(0)
    model = ChirpLocalizer(ChirpLocalizerConfig(layers=4)).eval()  # four of the twelve layers: the ratio is theirs
    for name, parameter in model.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.02)
    x = torch.rand(2, 3, 224, 224)

    def run(merged: bool) -> torch.Tensor:
        (merge_updates if merged else unmerge_updates)(model)
        with torch.inference_mode():
            return model(x)

    difference = float((run(True) - run(False)).abs().max())
    taken: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.repeats):
        for merged in (True, False):
            (merge_updates if merged else unmerge_updates)(model)
            with torch.inference_mode():
                start = time.process_time()
                model(x)
                taken[merged].append(time.process_time() - start)
    ratio = statistics.median(taken[False]) / statistics.median(taken[True])
    rows.append({"what": "ViT-B/16, four layers, rank 8", "apart_over_merged": ratio, "largest_difference": difference})
    print(json.dumps(rows[-1]), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
