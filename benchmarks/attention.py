"""How fast are the attention mechanisms, beside fused softmax and beside its matrix written out? Some minutes.

What ``harken bench attention`` measures, in both orders; ``--save`` keeps the numbers in
``benchmarks/results/attention.json`` and their tables in ``docs/choosing-attention.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from harken.attention import list_attention
from harken.hardware.attention_bench import BASELINE, WRITTEN_OUT, BenchReport, bench_attention, parse_length

ROOT = Path(__file__).parent.parent
TITLES = {
    "forward": "forward",
    "train": "forward and backward",
    "decode": "one position more, after that many",
}


def table(report: BenchReport, mode: str, causal: bool) -> list[str]:
    """One row a mechanism: microseconds a position at every length, and the length from which it beats softmax."""
    rows = [t for t in report.timings if t.mode == mode and t.causal == causal]
    lengths = sorted({t.length for t in rows})
    found = {(t.mechanism, t.length): t for t in rows}
    names = sorted({t.mechanism for t in rows} - {BASELINE, WRITTEN_OUT})
    head = ["mechanism", *(f"{length:,}" for length in lengths), "pays from"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name in [BASELINE, WRITTEN_OUT, *names]:
        if not any(t.mechanism == name for t in rows):
            continue
        cells = []
        for length in lengths:
            t = found.get((name, length))
            ratio = "" if t is None or t.speedup is None or name == BASELINE else f" ({t.speedup:.2g}x)"
            cells.append("" if t is None else f"{t.seconds_per_position * 1e6:.3g}{ratio}")
        crossover = None if name == BASELINE else report.crossover(name, mode, causal)  # type: ignore[arg-type]
        lines.append("| " + " | ".join([name, *cells, f"{crossover:,}" if crossover else ""]) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lengths", default="256,1k,4k,16k")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each (median)")
    parser.add_argument("--longest-call", type=float, default=3.0, help="seconds at which a mechanism leaves the race")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save", action="store_true", help="keep the numbers and write the tables into the docs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    lengths = [parse_length(text) for text in options.lengths.split(",")]
    reports: list[tuple[bool, BenchReport]] = []
    for causal in (True, False):
        names = list_attention(**{"causal" if causal else "bidirectional": True})
        reports.append(
            (
                causal,
                bench_attention(
                    names,
                    lengths,
                    modes=("forward", "train", "decode") if causal else ("forward", "train"),
                    causal=causal,
                    rounds=options.rounds,
                    longest_call=options.longest_call,
                    on_progress=print,
                ),
            )
        )
    machine = reports[0][1].machine
    text = [
        f"One CPU ({machine['processor']}), {machine['threads']} thread(s), {machine['matmul_gflops']:g} GFLOP/s in a "
        f"matrix product, {machine['memory_gbytes']:g} GB/s in a copy, PyTorch {machine['torch']}; dim 256, 4 heads, "
        "one sequence, default options. Microseconds a position, and how many times faster than fused softmax in the "
        "same rounds. The machine was busy with other work: compare within a table, not across."
    ]
    for causal, report in reports:
        for mode, title in TITLES.items():
            if any(t.mode == mode for t in report.timings):
                text += ["", f"**{'Causal' if causal else 'Both ways'}, {title}**", "", *table(report, mode, causal)]
    print("\n".join(text))
    if options.save:
        record = {"causal" if causal else "bidirectional": report.as_json() for causal, report in reports}
        results = ROOT / "benchmarks" / "results" / "attention.json"
        results.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        page = ROOT / "docs" / "choosing-attention.md"
        before, _, after = page.read_text(encoding="utf-8").partition("<!-- begin -->\n")
        _, end, rest = after.partition("<!-- end -->")
        page.write_text(f"{before}<!-- begin -->\n" + "\n".join(text) + f"\n{end}{rest}", encoding="utf-8")


if __name__ == "__main__":
    main()
