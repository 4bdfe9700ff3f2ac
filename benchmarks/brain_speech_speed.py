"""How fast are the brain decoders' short cuts? Folded against plain network, one matmul against a loop, cached keys.

    OMP_NUM_THREADS=1 python benchmarks/brain_speech_speed.py [--save FILE.json] [--repeats 3]

Random weights and signals, CPU time of one thread, median of interleaved runs; results of both sides must be the same.
Compared: the brain module of the paper's size on 3 s of 208 channels (batch of 8), its layers as they are against
attention, 1x1 convolution, subject's matrix and batch normalisation folded; similarities of 64 estimates with 1,000
candidates by one matrix product against a loop over candidates; 32 bytes of answer of the scene model with cached keys
against reading all anew for each.
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
from torch import Tensor

from harken.models.brain.aad_llm import BEGIN, SceneLM, _Told, encode
from harken.models.brain.segment_retrieval import clip_scores
from harken.models.brain.speech_decoding import SpeechDecoding, SpeechDecodingConfig
from harken.models.write.generation import generate


def median_seconds(runs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Of each, interleaved, in CPU time, after one run that is not counted."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            start = time.process_time()
            run()
            if turn:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def by_loop(estimates: Tensor, candidates: Tensor) -> Tensor:
    """The scores, a candidate at a time."""
    rows = [(estimates * one).sum((1, 2)) / (1e-8 + one.norm()) for one in candidates]
    return torch.stack(rows, 1)


def anew(model: SceneLM, question: Tensor, scene: Tensor, count: int) -> list[int]:
    """Greedy bytes, everything read again for each."""
    answer = torch.full((1, 1), BEGIN)
    for _ in range(count):
        token = model(question, scene, answer)[:, -1:].argmax(-1)
        answer = torch.cat((answer, token), 1)
    return answer[0, 1:].tolist()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--save", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []

    def compare(task: str, runs: dict[str, Callable[[], Any]], difference: float) -> None:
        seconds = median_seconds(runs, args.repeats)
        first = next(iter(seconds.values()))
        ratio = {name: value / first for name, value in seconds.items()}
        rows.append({"task": task, "seconds": seconds, "ratio": ratio, "largest_difference": difference})
        print(json.dumps(rows[-1]), flush=True)

    for name, config, channels, batch in (
        ("brain module, paper's size", SpeechDecodingConfig(), 208, 8),
        ("brain module, small", SpeechDecodingConfig.small(), 32, 64),
    ):
        model = SpeechDecoding(config).eval()
        x, positions = torch.randn(batch, channels, 360), torch.rand(channels, 2)
        subject = torch.arange(batch) % config.subjects
        folded = model.merged(positions)
        plain = model(x, subject, positions)
        difference = float((folded(x, subject) - plain).abs().max() / plain.abs().max())
        runs: dict[str, Callable[[], Any]] = {
            "folded": lambda folded=folded, x=x, subject=subject: folded(x, subject),
            "plain": lambda model=model, x=x, subject=subject, positions=positions: model(x, subject, positions),
        }
        compare(name, runs, difference)
    z, y = torch.randn(64, 40, 342), torch.randn(1000, 40, 342)
    difference = float((clip_scores(z, y) - by_loop(z, y)).abs().max())
    compare(
        "64 estimates, 1,000 candidates",
        {"matmul": lambda: clip_scores(z, y), "loop": lambda: by_loop(z, y)},
        difference,
    )
    model = SceneLM().eval()
    question, scene = encode(["which word did the talker say?"]), torch.randn(1, 2, 40, 400)

    def cached() -> list[int]:
        told = _Told(model, model.prefix(question, scene))
        return [int(token) for token in generate(told, torch.full((1, 1), BEGIN), 32, temperature=0.0)]

    def read_anew() -> list[int]:
        return anew(model, question, scene, 32)

    compare("32 bytes after 4 s of scene", {"cached": cached, "anew": read_anew}, float(cached() != read_anew()))
    if args.save:
        args.save.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
