"""LongVQ: gated attention over a structured memory, with keys from a codebook (arXiv 2404.11163)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Trials

LANGUAGE = Language(length=256, steps=200, batch=4, dim=64, layers=2, heads=1)  # one head, as the paper has it
CODES: dict[str, Any] = {"codebook_size": 64, "window": 32}
UNITS = ("longvq", "full_attention", "linearised_attention", "average_only")
MARGIN = 0.01
LONGEST_MATRIX = 4096


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The moving averages, the gated unit, attention over codewords in linear time, and one codebook update."""
    import torch

    from harken.attention.longvq import (
        DampedAverage,
        codewords,
        commitment_loss,
        longvq_attention,
        nearest_codes,
        update_codebook,
    )
    from harken.models.write.longvq import LongVqBlock
    from harken.papers.parity import load_case

    case = load_case(case_dir)

    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name in ("ema_uni", "ema_bi"):
            average = DampedAverage.from_authors(case.part(f"{name}."), bidirectional=name == "ema_bi")
            y, state = average(case.io[f"{name}.x"].transpose(0, 1))
            outputs[f"{name}.y"] = y.transpose(0, 1)
            if name == "ema_uni":
                outputs["ema_uni.state_after_T"] = state
        block = LongVqBlock.from_authors(case.part("mega.")).eval()
        x = case.io["mega_causal.x"].transpose(0, 1)
        outputs["mega_causal.y"] = block(x).transpose(0, 1)
        outputs["mega_causal.attn"] = block.attention.weights(block.norm(x))

        q, k, v = (case.io[f"vq.{name}"].unsqueeze(1) for name in "qkv")
        codebook, bias = case.io["vq.codebook"][None], case.io["vq.local_bias"]
        for order in ("causal", "bi"):
            mixed = longvq_attention(q, k, v, codebook, bias, causal=order == "causal")
            outputs[f"vq_{order}.o"] = mixed.squeeze(1)
        codes = nearest_codes(k, codebook)
        quantized = codewords(codes, codebook)
        counts = case.io["vq.count_before"][None]
        sums, counts = update_codebook(codebook * counts[..., None], counts, k, codes, decay=case.config["gamma"])
        outputs |= {
            "vq.codes": codes.squeeze(1),
            "vq.k_hat": quantized.squeeze(1),
            "vq.commit_loss": commitment_loss(k, quantized)[None],
            "vq.codebook_after": (sums / counts[..., None]).squeeze(0),
            "vq.count_after": counts.squeeze(0),
        }
    return outputs


def language_modelling(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Train byte language models whose units differ in their attention alone; the moving average tells positions."""
    language = LANGUAGE.for_run(quick)
    seeds = range(seed, seed + (1 if quick else 3))
    trials = language.compare({name: partial(_decoder, name, language) for name in UNITS}, seeds, progress)
    return Evidence(
        measured=trials.as_measured(["longvq"]),
        baseline=trials.as_measured([name for name in UNITS if name != "longvq"]),
        verdict=judge_language(trials),
        summary=(
            f"Held-out bits per byte at {language.length} bytes after {language.steps} equal steps: LongVQ "
            f"{trials.text('longvq')}, the same with full attention (MEGA) {trials.text('full_attention')}, with "
            f"linearised attention {trials.text('linearised_attention')}, the moving average without attention "
            f"{trials.text('average_only')}."
        ),
        settings=language.settings(
            seeds,
            str(judge_language.__doc__),
            **CODES,
            parameters=trials.parameters,
            train_seconds=trials.seconds,
        ),
    )


def judge_language(trials: Trials) -> Verdict:
    """Better than the average alone and than linearised attention, by 1 % and two standard errors: in direction.

    At most that, since no table of the paper was available to us. Worse than either of the two by as much fails.
    """
    margin = MARGIN * trials.mean("full_attention")
    found = {trials.finding("longvq", other, margin) for other in ("average_only", "linearised_attention")}
    if "worse" in found:
        return "fails here"
    return "holds in direction" if found == {"better"} else "not shown here"


def linear_time(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Forward and backward of one causal unit at lengths up to 16,384, beside the same with full attention."""
    import torch

    from harken.attention.longvq import LongVqAttention
    from harken.papers._cpu_time import training_seconds

    dim = LANGUAGE.dim
    rounds = {64: 1, 128: 1} if quick else {1024: 5, 4096: 3, 16384: 3}
    torch.manual_seed(seed)
    units = {
        "longvq": LongVqAttention(dim, causal=True, **CODES),
        "full_attention": LongVqAttention(dim, causal=True, quantize=False, **CODES),
    }
    generator = torch.Generator().manual_seed(seed)
    seconds = {}
    for number, (length, count) in enumerate(rounds.items()):

        def told(name: str, number: int = number, length: int = length) -> None:
            progress(number / len(rounds), f"{name} at {length:,} positions")

        if length > LONGEST_MATRIX:  # a few matrices of that size would not fit into a laptop's memory
            units.pop("full_attention", None)
        seconds[length] = training_seconds(units, torch.randn(1, length, dim, generator=generator), count, told)
    speedups = {n: of["full_attention"] / of["longvq"] for n, of in seconds.items() if "full_attention" in of}
    first, last = min(rounds), max(rounds)
    growth = seconds[last]["longvq"] / seconds[first]["longvq"] * first / last
    beside = max(speedups)
    growth_full = seconds[beside]["full_attention"] / seconds[first]["full_attention"] * first / beside
    return Evidence(
        measured={
            f"time_per_position_{last}_over_{first}": growth,
            **{f"speedup_over_full_attention_at_{n}": value for n, value in speedups.items()},
        },
        baseline={f"time_per_position_{beside}_over_{first}_full_attention": growth_full},
        verdict=judge_linear_time(growth),
        summary=(
            f"A training pass of LongVQ costs {growth:.2f} times as much per position at {last:,} as at {first:,} "
            f"positions; the same unit with full attention takes "
            + ", ".join(f"{value:.2f}x its time at {n:,}" for n, value in speedups.items())
            + "."
        ),
        settings={"dim": dim, "heads": 1, "batch": 1, **CODES, "rounds": rounds, "rule": judge_linear_time.__doc__},
    )


def judge_linear_time(growth: float) -> Verdict:
    """Time per position at the longest length over the shortest: up to 1.25 holds, 2 in direction, above 4 fails."""
    if growth <= 1.25:
        return "holds"
    if growth <= 2:
        return "holds in direction"
    return "fails here" if growth > 4 else "not shown here"


def _decoder(name: str, language: Language) -> nn.Module:
    from harken.attention.longvq import LongVqAttention
    from harken.papers._gated_averages import AverageOnly, LinearisedAverage

    model: Any = language.decoder(positions="none")()
    for block in model.blocks:
        if name == "average_only":
            block.attention = AverageOnly(language.dim)
        else:
            kind = LinearisedAverage if name == "linearised_attention" else LongVqAttention
            block.attention = kind(language.dim, causal=True, quantize=name == "longvq", **CODES)
    return model


CLAIMS = (
    Claim(
        name="better-than-its-parts",
        statement=(
            "Attention over codewords adds what the moving average lacks: LongVQ is better than the average alone and "
            "than linearised attention on it."
        ),
        source="arXiv 2404.11163, abstract",
        paper_value="better than Transformers, convolutions and state-space models; its tables were not found",
        run=language_modelling,
    ),
    Claim(
        name="linear-time",
        statement="The time of a training pass grows linearly with length, since the codebook's size is fixed.",
        source="arXiv 2404.11163, abstract",
        paper_value="linear in length; no measured time was found",
        run=linear_time,
    ),
)

PAPER = Paper(
    slug="longvq",
    title="LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory",
    arxiv="2404.11163",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/longvq.py", "models/write/longvq.py"),
    reached_by=('create_attention("longvq")',),
    model="harken.attention.longvq:LongVqAttention",
    status="works",
    replay=replay,
    claims=CLAIMS,
    related=("2209.10655", "2309.16354"),
)
