"""MASFormer: full attention in a few layers, short spans in the others (arXiv 2310.12442)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.papers._trials import Trials

LANGUAGE, SPAN = Language(length=512, steps=200, batch=4, dim=64, layers=4), 32
COPY, COPY_SPAN = Language(task="copy", length=48, steps=500, batch=16, dim=64, layers=3), 8


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The masks of the four spans, and what causal attention within each gives."""
    import torch

    from harken.attention._local import Kind, Span
    from harken.attention.span import span_attention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    q, k, v = (case.io[name] for name in ("q", "k", "v"))
    block, window = case.config["block"], case.config["window_left"]
    spans: dict[str, tuple[Kind, int]] = {
        "full": ("full", 1),
        "block_own": ("block", block),
        "block_prev": ("previous", block),
        "window": ("window", window),
    }
    outputs: dict[str, Tensor] = {}
    place = torch.arange(q.shape[2])
    with torch.inference_mode():
        for name, (kind, size) in spans.items():
            if f"o.{name}" in case.io:
                outputs[f"o.{name}"] = span_attention(q, k, v, span=kind, span_size=size, causal=True)
            if f"mask.{name}" in case.io:
                outputs[f"mask.{name}"] = Span(kind, size).allowed(place, place, causal=True)
    return outputs


def language_modelling(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Train decoders that differ in the spans of their layers alone, from the same seeds on the same bytes."""
    language = LANGUAGE.for_run(quick)
    local = f"span:span_size={2 if quick else SPAN}"
    seeds = range(seed, seed + (1 if quick else 2))
    stacks = {
        "full": ("softmax",),
        "spans_only": (local,),
        "one_full_at_bottom": ("softmax", local, local, local),
        "one_full_in_middle": (local, "softmax", local, local),
        "one_full_at_top": (local, local, local, "softmax"),
        "two_full_at_bottom": ("softmax", "softmax", local, local),
    }
    trials = language.compare({name: language.decoder(*stack) for name, stack in stacks.items()}, seeds, progress)
    mixed = [name for name in stacks if name.startswith(("one", "two"))]
    return Evidence(
        measured={
            **trials.as_measured(mixed),
            **{f"share_of_gap_closed_{name}": share_of_gap(trials, name) for name in mixed},
        },
        baseline=trials.as_measured(["full", "spans_only"]),
        verdict=judge_language(trials),
        summary=(
            f"Held-out bits per byte after {language.steps} steps at {language.length} bytes, spans of {SPAN}: "
            f"full attention {trials.text('full')}, spans only {trials.text('spans_only')}, one full layer of four at "
            f"the bottom {trials.text('one_full_at_bottom')}, in the middle {trials.text('one_full_in_middle')}, at "
            f"the top {trials.text('one_full_at_top')}; two at the bottom {trials.text('two_full_at_bottom')}."
        ),
        settings=language.settings(
            seeds, str(judge_language.__doc__), span="block", span_size=SPAN, train_seconds=trials.seconds
        ),
    )


def share_of_gap(trials: Trials, name: str) -> float:
    """How much of what spans only lose against full attention a mixed stack wins back; 0 where they lose nothing."""
    gap = trials.mean("spans_only") - trials.mean("full")
    return (trials.mean("spans_only") - trials.mean(name)) / gap if gap > 0 else 0.0


def judge_language(trials: Trials) -> Verdict:
    """One full layer at the bottom: 90 % of the gap from spans only to full attention closed holds, 50 % in direction.

    The gap must be above 1 % of full attention's bits and two standard errors, or nothing can be told; a stack with
    one full layer that is no better than spans only fails.
    """
    if trials.finding("full", "spans_only", 0.01 * trials.mean("full")) != "better":
        return "not shown here"
    if trials.finding("one_full_at_bottom", "spans_only") != "better":
        return "fails here"
    share = share_of_gap(trials, "one_full_at_bottom")
    if share >= 0.9:
        return "holds"
    return "holds in direction" if share >= 0.5 else "not shown here"


def copying(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Repeat random symbols that lie farther back than the spans of the whole stack reach."""
    language = COPY.for_run(quick)
    local = f"span:span_size={4 if quick else COPY_SPAN}"
    seeds = range(seed, seed + (1 if quick else 2))
    stacks = {
        "full": ("softmax",),
        "spans_only": (local,),
        "one_full_at_bottom": ("softmax", local, local),
        "one_full_at_top": (local, local, "softmax"),
    }
    builders = {name: language.decoder(*stack, vocabulary=33) for name, stack in stacks.items()}
    trials = language.compare(builders, seeds, progress)
    return Evidence(
        measured=trials.as_measured(["one_full_at_bottom", "one_full_at_top"]),
        baseline=trials.as_measured(["full", "spans_only"]),
        verdict=judge_copying(trials),
        summary=(
            f"Repeating {language.length // 2} random symbols with blocks of {COPY_SPAN} in three layers, accuracy: "
            f"full attention {trials.text('full')}, spans only {trials.text('spans_only')}, one full layer at the "
            f"bottom {trials.text('one_full_at_bottom')}, at the top {trials.text('one_full_at_top')}."
        ),
        settings=language.settings(
            seeds, str(judge_copying.__doc__), span="block", span_size=COPY_SPAN, train_seconds=trials.seconds
        ),
    )


def judge_copying(trials: Trials) -> Verdict:
    """One full layer at the bottom as accurate as 90 % of full attention, spans only below 10 %: holds.

    Better than spans only beyond two standard errors and 5 points: in direction. Full attention below 50 %: the task
    was not learned, so nothing can be told.
    """
    if trials.mean("full") < 0.5:
        return "not shown here"
    found = trials.finding("one_full_at_bottom", "spans_only", 0.05)
    if found != "better":
        return "fails here"
    near = trials.mean("one_full_at_bottom") >= 0.9 * trials.mean("full")
    return "holds" if near and trials.mean("spans_only") < 0.1 else "holds in direction"


def cost(seed: int, quick: bool, progress: Progress) -> Evidence:
    """What the attention of a stack costs with one full layer in six, against six: counted, and on one core."""
    import torch

    from harken.attention import create_attention
    from harken.papers._cpu_time import training_seconds

    rounds = {32: 1, 64: 1} if quick else {2048: 5, 4096: 3, 8192: 3}
    layers, full = 6, 1
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    measured: dict[str, float] = {}
    saved = counted = 0.0
    for number, (length, count) in enumerate(rounds.items()):
        block = length // 8  # as 1,024 of the paper's 8,192 positions
        pair = {
            "softmax": create_attention("softmax", dim=64, heads=4, causal=True),
            "span": create_attention(f"span:span_size={block}", dim=64, heads=4, causal=True),
        }

        def told(name: str, number: int = number, length: int = length) -> None:
            progress(number / len(rounds), f"{name} at {length:,} positions")

        seconds = training_seconds(pair, torch.randn(1, length, 64, generator=generator), count, told)
        pairs = {"softmax": length * (length + 1) // 2, "span": length * (block + 1) // 2}
        saved, counted = (1 - (full + (layers - full) * of["span"] / of["softmax"]) / layers for of in (seconds, pairs))
        measured[f"time_saved_at_{length}"] = saved
        measured[f"pairs_saved_at_{length}"] = counted
        measured[f"speedup_of_one_layer_at_{length}"] = seconds["softmax"] / seconds["span"]
    longest = max(rounds)
    return Evidence(
        measured=measured,
        baseline={"saved_by_full_attention": 0.0},
        verdict=judge_cost(saved),
        summary=(
            f"At {longest:,} positions, with blocks of an eighth of them and one full layer in six, training the "
            f"attention layers (projections included) takes {100 * saved:.0f} % less time on one core than with six "
            f"full ones; {100 * counted:.0f} % fewer pairs of positions meet."
        ),
        settings={
            "dim": 64,
            "heads": 4,
            "batch": 1,
            "layers": layers,
            "full_layers": full,
            "span": "block",
            "span_size": "length / 8",
            "rounds": rounds,
            "rule": judge_cost.__doc__,
        },
    )


def judge_cost(saved: float) -> Verdict:
    """Time saved at the longest length: 60 % or more holds (the paper: up to 75 %), 15 % in direction, none fails."""
    if saved >= 0.6:
        return "holds"
    if saved >= 0.15:
        return "holds in direction"
    return "fails here" if saved <= 0 else "not shown here"


CLAIMS = (
    Claim(
        name="language-modelling",
        statement=(
            "Full attention in one layer at the bottom and short spans in the others model language about as well as "
            "full attention everywhere."
        ),
        source="arXiv 2310.12442, abstract",
        paper_value=(
            "a 1.3B model competitive with full attention at up to 75 % less attention cost; its tables were not found"
        ),
        run=language_modelling,
    ),
    Claim(
        name="long-range-copy",
        statement="A single full layer restores the long range that short spans in all layers lose.",
        source="arXiv 2310.12442, abstract",
        paper_value="no number: long-range dependencies are kept by full attention in a few layers",
        run=copying,
    ),
    Claim(
        name="attention-cost",
        statement="Full attention in a few layers only saves up to three quarters of the cost of attention.",
        source="arXiv 2310.12442, abstract",
        paper_value="attention cost reduced by up to 75 %",
        run=cost,
    ),
)

PAPER = Paper(
    slug="masformer",
    title="Efficient Long-Range Transformers: You Need to Attend More, but Not Necessarily at Every Layer",
    arxiv="2310.12442",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/span.py", "models/write/"),
    reached_by=('create_attention("span")', "harken write train"),
    model="harken.attention.span:SpanAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
