"""How fast are PS and PM here? The measures of all frames at once against one frame after the other.

    OMP_NUM_THREADS=1 python benchmarks/separation_score.py [--authors CLONE] [--frames 24] [--save FILE.json]

Made-up sources and points of 320 dimensions, two sources with 71 distortions each, in one process, CPU time of one
thread, median of interleaved runs. Compared: harken's batch; harken's own functions called frame by frame; and, with a
clone of github.com/Amir-Ivry/MAPSS-measures, its ``metrics`` module called frame by frame, as its engine does, whose
values must be equal; with and without uncertainty. With librosa and pyloudnorm installed, also the whole path from
waveforms (banks, loudness, waveform points, measures) for both.

``--threads 2`` times the wall's clock instead, with so many threads: harken judges a part of the frames on each, the
authors' code may use them as it likes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harken.score.mapss import _on_all_cores, mapss, measure_frames

DISTORTIONS = 71


def points_of(frames: int, dim: int = 320) -> Tensor:
    """Speech-like points: each source's distortions scatter around its reference by very different amounts."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(2):
        reference = torch.randn(frames, 1, dim, generator=generator)
        spread = torch.rand(1, DISTORTIONS + 1, 1, generator=generator).square() * 1.5
        others = reference + spread * torch.randn(frames, DISTORTIONS + 1, dim, generator=generator)
        parts.append(torch.cat((reference, others), 1))
    return torch.cat(parts, 1)


def authors_values(metrics: Any, points: Tensor, measure: str, uncertainty: bool) -> Tensor:
    """Their functions on one frame after the other: ``(frames, sources)``."""
    labels = [f"s{s}-{part}" for s in (0, 1) for part in ("ref", "out", *(f"d{i}" for i in range(DISTORTIONS)))]
    values = []
    for frame in points:
        options = {"alpha": 1.0, "eig_solver": "full", "device": "cpu"}
        if uncertainty:
            kept, rest, eigenvalues, _ = metrics.diffusion_map_torch(
                frame.numpy(), labels, return_eigs=True, return_complement=True, return_cval=True, **options
            )
            bounds = metrics.ps_ci_components_full if measure == "ps" else metrics.pm_ci_components_full
            bounds(kept, rest, eigenvalues, labels)
        else:
            kept = metrics.diffusion_map_torch(frame.numpy(), labels, **options)
        found = metrics.compute_ps(kept, labels) if measure == "ps" else metrics.compute_pm(kept, labels, "gamma")
        values.append([found["s0"], found["s1"]])
    return torch.tensor(values)


def ours_one_by_one(points: Tensor, measure: Any, uncertainty: bool) -> Tensor:
    sizes = (DISTORTIONS, DISTORTIONS)
    return torch.cat([measure_frames(frame[None], sizes, measure, uncertainty=uncertainty).value for frame in points])


def ours_at_once(points: Tensor, measure: Any, uncertainty: bool) -> Tensor:
    def measured(part: Tensor) -> Any:
        return measure_frames(part, (DISTORTIONS, DISTORTIONS), measure, uncertainty=uncertainty)

    parts = list(points.tensor_split(torch.get_num_threads()))
    return torch.cat([found.value for found in _on_all_cores(measured, parts)])


def authors_from_waveforms(clean: np.ndarray, estimates: np.ndarray) -> None:
    """Their path in raw mode with uncertainty, without files and processes around it."""
    import audio
    import distortions
    import metrics
    import models

    ours, theirs = ([audio.loudness_normalize(x) for x in signals] for signals in (clean, estimates))
    mask, _ = audio.compute_speaker_activity_masks([torch.from_numpy(x) for x in ours], 320, 320)
    for measure, bank in (("ps", distortions.apply_ps_distortions), ("pm", distortions.apply_pm_distortions)):
        signals, labels = [], []
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            made = [audio.loudness_normalize(x) for x in bank(one, "all")]
            signals += [one, other, *made]
            labels += [f"s{number}-ref", f"s{number}-out", *(f"s{number}-d{i}" for i in range(len(made)))]
        embedded = models.embed_batch_raw(signals, [mask] * len(signals))
        for frame in embedded.transpose(0, 1).numpy():
            kept, rest, values, _ = metrics.diffusion_map_torch(
                frame, labels, alpha=1.0, eig_solver="full", return_eigs=True, return_complement=True, return_cval=True,
                device="cpu",
            )  # fmt: skip
            if measure == "ps":
                metrics.compute_ps(kept, labels)
                metrics.ps_ci_components_full(kept, rest, values, labels)
            else:
                metrics.compute_pm(kept, labels, "gamma")
                metrics.pm_ci_components_full(kept, rest, values, labels)


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Of each, interleaved: CPU time, or with several threads the wall's."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    metrics = None
    if args.authors:
        sys.path.insert(0, str(args.authors))
        import metrics  # type: ignore[no-redef]
    points = points_of(args.frames)
    rows = []
    for measure in ("ps", "pm"):
        for uncertainty in (False, True):
            task = points, measure, uncertainty
            runs: dict[str, Callable[[], Any]] = {
                "at once": lambda task=task: ours_at_once(*task),
                "one by one": lambda task=task: ours_one_by_one(*task),
            }
            if metrics is not None:
                runs["authors"] = lambda task=task: authors_values(metrics, *task)
                difference = (ours_at_once(*task) - authors_values(metrics, *task)).abs().max()
            else:
                difference = torch.tensor(float("nan"))
            seconds = median_seconds(runs, args.repeats)
            row = {
                "measure": measure,
                "uncertainty": uncertainty,
                "milliseconds_per_frame": {name: 1000 * value / args.frames for name, value in seconds.items()},
                "ratio": {name: value / seconds["at once"] for name, value in seconds.items()},
                "largest_difference": float(difference),
            }
            rows.append(row)
            print(json.dumps(row), flush=True)
    if metrics is not None and find_spec("librosa") and find_spec("pyloudnorm"):
        time_axis = np.arange(16000) / 16000
        clean = np.stack(
            [
                0.1
                * sum(np.sin(2 * np.pi * k * f * time_axis + k) / k for k in range(1, 12))
                * (1.2 + np.sin(9 * time_axis))
                for f in (118, 207)
            ]
        )
        estimates = clean + 0.2 * clean[::-1]
        authors_from_waveforms(clean[:, :8000], estimates[:, :8000])  # librosa compiles at its first call
        seconds = median_seconds(
            {
                "at once": lambda: mapss(torch.from_numpy(clean), torch.from_numpy(estimates)),
                "authors": lambda: authors_from_waveforms(clean, estimates),
            },
            2,
        )
        row = {
            "from": "waveforms of 1 s",
            "seconds": seconds,
            "ratio": {"authors": seconds["authors"] / seconds["at once"]},
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    if args.save:
        args.save.write_text(
            json.dumps(
                {"torch": torch.__version__, "threads": args.threads, "frames": args.frames, "rows": rows}, indent=1
            )
        )


if __name__ == "__main__":
    main()
