"""What MVPFormer's two fast forms save: attention by broadcast terms, and wavelet tokens for a whole batch.

    OMP_NUM_THREADS=1 python benchmarks/mvpformer_speed.py [--segments 25] [--channels 32] [--save FILE.json]

Attention: harken's block of queries after block, whose lag and channel terms are products with the two tables alone,
against the three terms as dense ``(positions, positions)`` matrices, in plain PyTorch, forward without gradients; time,
and the peak of memory above what was there before, each in a process of its own. Wavelets: one call of
``WaveletTransform`` for all segments against ``pywt.wavedec`` segment by segment, and against its own batched form.
Median of interleaved runs of CPU time on one thread, results compared.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harken.attention.multivariate import MultivariateAttention
from harken.signal.wavelet import WaveletTransform

DIM, HEADS, KV_HEADS = 64, 4, 2


def dense_terms(layer: MultivariateAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """The same attention with every term as a matrix over all pairs of positions."""
    channels, time_steps = grid
    q, k, v, terms, rules = layer._prepare(x, None, None, grid)
    shared = layer.heads // layer.kv_heads
    q, k, v = (part.flatten(2, 3) for part in (q, k, v))
    k, v = k.repeat_interleave(shared, 1), v.repeat_interleave(shared, 1)

    def wide(bias: Tensor) -> Tensor:
        return bias.repeat_interleave(shared, 0)[:, None]

    moment = torch.arange(time_steps).repeat_interleave(channels)
    channel = torch.arange(channels).repeat(time_steps)
    lag, distance = (moment[:, None] - moment).abs(), (channel[:, None] - channel).abs()
    content = (q + wide(terms.content_bias)) @ k.transpose(-1, -2)
    content = content * (lag <= rules.content_window)
    rows = terms.time_keys.repeat_interleave(shared, 0)
    by_time = torch.einsum("bhqd,hqkd->bhqk", q + wide(terms.time_bias), rows[:, lag])
    rows = terms.channel_keys.repeat_interleave(shared, 0)
    by_channel = torch.einsum("bhqd,hqkd->bhqk", q + wide(terms.channel_bias), rows[:, distance])
    scores = (content + by_time + by_channel) * layer.head_dim**-0.5
    scores = scores.masked_fill(moment > moment[:, None], -torch.inf)
    mixed = scores.softmax(-1) @ v
    return layer.out_proj(mixed.transpose(1, 2).flatten(2))


def run_attention(kind: str, segments: int, channels: int) -> Tensor:
    torch.manual_seed(0)
    layer = MultivariateAttention(DIM, HEADS, causal=True, kv_heads=KV_HEADS).eval()
    x = torch.randn(1, segments * channels, DIM)
    with torch.inference_mode():
        return (
            layer(x, grid=(channels, segments)) if kind == "broadcast" else dense_terms(layer, x, (channels, segments))
        )


def _peak(kind: str, segments: int, channels: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    run_attention(kind, 2, 2)  # what torch itself needs
    before = _high_water()
    run_attention(kind, segments, channels)
    pipe.send(_high_water() - before)


def _high_water() -> int:
    """Kilobytes that this process has held at most; getrusage would tell its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def peak_megabytes(kind: str, segments: int, channels: int) -> float:
    """Of a process of its own."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_peak, args=(kind, segments, channels, theirs))
    process.start()
    found = ours.recv()
    process.join()
    return found / 1024


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=25)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = args.segments, args.channels
    seconds = medians({k: lambda k=k: run_attention(k, *shape) for k in ("broadcast", "dense")}, args.repeats)
    memory = {kind: peak_megabytes(kind, *shape) for kind in seconds}
    difference = (run_attention("broadcast", *shape) - run_attention("dense", *shape)).abs().max()
    rows: list[dict[str, Any]] = [
        {
            "what": f"attention, {args.segments} segments of {args.channels} channels",
            "time_ratio": seconds["dense"] / seconds["broadcast"],
            "memory_ratio": memory["dense"] / max(memory["broadcast"], 1e-9),
            "peak_megabytes": memory,
            "largest_difference": float(difference),
        }
    ]
    print(json.dumps(rows[-1]), flush=True)
    import pywt

    for samples in (128, 256, 512, 2560):
        x = np.random.default_rng(0).standard_normal((1000, samples)).astype(np.float32)
        transform, tensor = WaveletTransform(samples), torch.from_numpy(x)
        runs = {
            "harken": lambda transform=transform, tensor=tensor: transform(tensor),
            "pywt_loop": lambda x=x: [np.concatenate(pywt.wavedec(row, "db4", mode="periodic")) for row in x],
            "pywt_batch": lambda x=x: np.concatenate(pywt.wavedec(x, "db4", mode="periodic", axis=-1), -1),
        }
        seconds = medians(runs, args.repeats)
        rows.append(
            {
                "what": f"db4 coefficients of 1000 segments of {samples} samples",
                "ratio": {name: value / seconds["harken"] for name, value in seconds.items()},
                "largest_difference": float(np.abs(transform(tensor).numpy() - runs["pywt_batch"]()).max()),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
