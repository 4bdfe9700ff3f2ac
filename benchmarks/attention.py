"""How fast are the attention mechanisms, beside PyTorch's own and beside their plain forms? About half a minute.

Everything that is compared runs interleaved in one process, and the medians are reported: as ratios, as time per
position (flat means linear) and as a share of the matrix products this machine can do. ``--save`` keeps the numbers in
``benchmarks/results/attention.json`` and their table in ``docs/swap-attention.md``.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import harken
from harken.attention import ProjectedAttention

ROOT = Path(__file__).parent.parent
LAYERS = [("400 sequences of 100", 400, 100), ("8 sequences of 1,000", 8, 1000)]
LENGTHS = [1024, 4096, 16384, 65536]


def interleaved(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, one round after another, so that a busy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def matmul_gflops() -> float:
    """What this machine reaches in a square matrix product, in GFLOP/s."""
    a = torch.ones(1024, 1024)
    return 2 * 1024**3 / interleaved({"matmul": lambda: a @ a}, 7)["matmul"] / 1e9


def layers(limit: float, rounds: int) -> list[dict]:
    """Whole layers, dim 64, 4 heads: ours, ``nn.MultiheadAttention`` and the matrix written out."""
    rows = []
    theirs = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    for title, batch, length in LAYERS:
        x = torch.randn(batch, length, 64)
        calls: dict[str, Callable[[], object]] = {
            "nn.MultiheadAttention": lambda x=x: theirs(x, x, x, need_weights=False)
        }
        built = {name: harken.create_attention(name, dim=64, heads=4).eval() for name in harken.list_attention()}
        for name, layer in built.items():
            calls[name] = lambda layer=layer, x=x: layer(x)
            calls[f"{name}, matrix written out"] = lambda layer=layer, x=x: written_out(layer, x)
        seconds = interleaved(calls, rounds)
        for name, median in seconds.items():
            row = {"input": title, "layer": name, "ratio": round(seconds["nn.MultiheadAttention"] / median, 2)}
            if name in built:
                gflops = built[name].cost(batch, length).flops / median / 1e9
                row["share of matmul"] = round(gflops / limit, 2)
            rows.append(row)
    return rows


def written_out(layer: ProjectedAttention, x: Tensor) -> Tensor:
    q, k, v = layer.project(x)
    return layer.merge(layer.mix_weights(q, k, None) @ v)


def lengths(rounds: int) -> list[dict]:
    """One causal layer (dim 64, 4 heads) on ever longer sequences, and one position more of a stream after them."""
    rows = []
    built = {name: harken.create_attention(name, dim=64, heads=4, causal=True).eval() for name in ("softmax", "linear")}
    for length in LENGTHS:
        x = torch.randn(1, length, 64)
        able = {name: layer for name, layer in built.items() if name != "softmax" or length <= 16384}
        calls = {name: lambda layer=layer, x=x: layer(x) for name, layer in able.items()}
        seconds = interleaved(calls, rounds if length <= 4096 else 2)
        streams = {}
        for name, layer in built.items():
            state = layer.init_state(1)
            for chunk in x.split(4096, 1) if name in able else ():
                _, state = layer.step(chunk, state)
            if name in able:
                streams[name] = lambda layer=layer, state=state, x=x: layer.step(x[:, :1], state)
        steps = interleaved(streams, 20)
        rows += [
            {
                "positions": length,
                "layer": name,
                "microseconds a position": round(median / length * 1e6, 2),
                "microseconds a step": round(steps[name] * 1e6),
            }
            for name, median in seconds.items()
        ]
    return rows


def table(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row.get(column, "")) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each (median)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the numbers and write the table into the docs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.inference_mode():
        limit = matmul_gflops()
        by_layer, by_length = layers(limit, options.rounds), lengths(options.rounds)
    machine = {"threads": options.threads, "matmul GFLOP/s": round(limit, 1), "torch": torch.__version__.split("+")[0]}
    text = "\n\n".join(
        (
            f"CPU ({platform.machine()}), {options.threads} thread(s), {machine['matmul GFLOP/s']} GFLOP/s in a matrix "
            f"product, PyTorch {machine['torch']}; `ratio` is how many times faster than `nn.MultiheadAttention`.",
            table(by_layer),
            "One causal layer as the sequence grows, and one step of a stream that long:",
            table(by_length),
        )
    )
    print(text)
    if options.save:
        record = {"machine": machine, "dim": 64, "heads": 4, "layers": by_layer, "lengths": by_length}
        results = ROOT / "benchmarks" / "results" / "attention.json"
        results.parent.mkdir(exist_ok=True)
        results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        page = ROOT / "docs" / "swap-attention.md"
        before, _, after = page.read_text(encoding="utf-8").partition("<!-- begin -->\n")
        _, end, rest = after.partition("<!-- end -->")
        page.write_text(f"{before}<!-- begin -->\n{text}\n{end}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
