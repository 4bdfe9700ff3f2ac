"""SEA: sparse attention at the places that a small network estimates (arXiv 2310.01777)."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.errors import InputError
from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Trials

TEACHER = Language(length=256, steps=400, batch=8, dim=64, layers=2)
STUDENTS = Language(length=256, steps=100, batch=8, lr=1e-3, dim=64, layers=2)
KEYS, MAP = 16, 64


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Both orders on the saved queries, keys and values, with every intermediate and the distillation loss."""
    import torch

    from harken.attention._cells import widen
    from harken.attention.sea import Lesson, SeaAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    if case.config.get("k_oversample", 1.0) != 1 or not case.config.get("partial_attention_scaler", True):
        raise InputError("this replay has neither k_oversample other than 1 nor partial_attention_scaler off")
    outputs: dict[str, Tensor] = {}
    for mode, options in case.config["modes"].items():
        causal, side = options["causal"], mode.partition("_")[0]
        layer = SeaAttention.from_authors(
            case.part(f"{side}."),
            heads=case.config["num_attention_heads"],
            causal=causal,
            keys=case.config["k"],
            grouping=options["k_flatten_dim"],
        ).eval()
        q, k, v, added, scores, context = (
            case.io[f"{side}_{name}"] for name in ("q", "k", "v", "mask", "teacher_scores", "teacher_context")
        )
        time = q.shape[2]
        mask = None if causal else added[:, 0, 0] > -1
        if causal:
            q = q * layer.head_dim**0.5  # theirs comes scaled, ours scales
        with torch.inference_mode():
            parts = layer.parts(q, k, v, None if mask is None else mask.sum(-1))
            loss = layer.distillation(q, k, v, Lesson(scores, context), mask)
            places = torch.arange(1, time + 1)
            widths = places[None] if mask is None else mask.sum(-1)[:, None].expand(-1, time)
            ours = {
                "context": layer.mix(q, k, v, mask).transpose(1, 2).flatten(2),
                "attn": parts.sparse,
                "avg": (parts.average @ v.masked_fill(~mask[:, None, :, None], 0.0))
                if mask is not None
                else parts.average @ v,
                "est_probs": parts.map,
                "est_resized": widen(parts.estimate.scores.softmax(-1), time, widths),
                "mix": parts.estimate.gates,
                "performer": parts.estimate.performer,
                "compressed_mask": parts.kept.to(torch.uint8),
                "sparse_mask": parts.mask.to(torch.uint8),
                "loss": loss[None],
            }
        outputs |= {f"{mode}_{name}": value for name, value in ours.items() if f"{mode}_{name}" in case.io}
    return outputs


def distilled(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Distil a softmax decoder into SEA and into what it competes with, in equal steps from the teacher's weights."""
    from harken.papers._pretrained import pretrain
    from harken.papers._sea_students import Distillation
    from harken.papers._trials import Trials, run_trials
    from harken.tasks.small_training import judge

    first, then = TEACHER.for_run(quick), STUDENTS.for_run(quick)
    seeds = range(seed, seed + (1 if quick else 2))
    trials, task = Trials("bits_per_byte"), then.make_task()
    for number, one in enumerate(seeds):

        def told(done: float, note: str, number: int = number) -> None:
            progress((number + done) / len(seeds), note)

        teacher, bits = pretrain(first.decoder(), first, one, lambda done, note: told(0.25 * done, note))
        builders = {name: partial(_student, name, teacher, then) for name in ("sea", "performer", "window")}
        losses = {name: Distillation(teacher) for name in builders}
        found = run_trials(builders, task, then.budget, [one], told, losses=losses, done=0.25, share=0.75)
        oracle = judge(_student("top_keys", teacher, then), task, then.batch)
        for name, value in {"teacher": bits, "top_keys": oracle, **{n: v[0] for n, v in found.values.items()}}.items():
            trials.values.setdefault(name, []).append(value)
        trials.parameters |= found.parameters
        trials.seconds |= {name: trials.seconds.get(name, 0.0) + spent for name, spent in found.seconds.items()}
    worse = {name: 100 * loss_of(trials, name) for name in trials.values}
    return Evidence(
        measured={**trials.as_measured(["sea"]), "percent_over_teacher_sea": worse["sea"]},
        baseline={
            **trials.as_measured(["teacher", "performer", "window", "top_keys"]),
            **{f"percent_over_teacher_{name}": worse[name] for name in ("performer", "window", "top_keys")},
        },
        verdict=judge_students(trials),
        summary=(
            f"A softmax teacher of {trials.text('teacher')} bits per byte at {then.length} bytes, distilled for "
            f"{then.steps} steps: SEA with {KEYS} keys a query {trials.text('sea')} ({worse['sea']:+.1f} %), Performer "
            f"{trials.text('performer')} ({worse['performer']:+.1f} %), a window of {KEYS} keys "
            f"{trials.text('window')} ({worse['window']:+.1f} %); the teacher on its own {KEYS} largest scores, "
            f"untrained, {trials.text('top_keys')} ({worse['top_keys']:+.1f} %)."
        ),
        settings=then.settings(
            seeds,
            str(judge_students.__doc__),
            teacher={"steps": first.steps, "batch": first.batch, "learning_rate": first.lr},
            keys=KEYS,
            map_width=MAP,
            parameters=trials.parameters,
            train_seconds=trials.seconds,
        ),
    )


def loss_of(trials: Trials, name: str) -> float:
    """By which share a student's bits per byte exceed the teacher's."""
    return trials.mean(name) / trials.mean("teacher") - 1


def judge_students(trials: Trials) -> Verdict:
    """SEA within 5 % of the teacher's bits, and Performer behind SEA by more than 5 % of them: holds.

    Performer behind SEA by more than two standard errors is in direction, ahead by as much fails.
    """
    found = trials.finding("sea", "performer")
    if found != "better":
        return "fails here" if found == "worse" else "not shown here"
    clear = loss_of(trials, "performer") - loss_of(trials, "sea") > 0.05
    return "holds" if clear and loss_of(trials, "sea") <= 0.05 else "holds in direction"


def _student(name: str, teacher: nn.Module, language: Language) -> nn.Module:
    """A decoder with the teacher's weights and another attention."""
    from harken.papers._sea_students import PerformerAttention, TopKeysAttention

    mechanism = {
        "sea": f"sea:keys={KEYS},map_width={MAP},feature_factor=1.0,max_positions={language.length},"
        "straight_through=false",
        "window": f"span:span=window,span_size={KEYS - 1}",
    }
    model: Any = language.decoder(mechanism.get(name, "softmax"))()
    for block in model.blocks:
        if name == "performer":
            block.attention = PerformerAttention(language.dim, language.heads)
        elif name == "top_keys":
            block.attention = TopKeysAttention(language.dim, language.heads, keys=KEYS)
    model.load_state_dict(teacher.state_dict(), strict=False)  # SEA's estimator and Performer's features start anew
    return model


CLAIMS = (
    Claim(
        name="distilled-from-softmax",
        statement=(
            "Distilled from a softmax teacher, SEA stays close to it with a few keys a query, and a linear attention "
            "distilled alike does not."
        ),
        source="arXiv 2310.01777, abstract; a plotting script of the released code",
        paper_value=(
            "WikiText-2 perplexity of OPT-125M 25.2, with SEA (64 keys) 25.9, with Performer 49.8 (released script, an "
            "earlier version); the paper's final tables were not found"
        ),
        run=distilled,
    ),
)

PAPER = Paper(
    slug="sea",
    title="SEA: Sparse Linear Attention with Estimated Attention Mask",
    arxiv="2310.01777",
    repository="gmlwns2000/sea-attention",
    licence="none stated",
    kind=("attention",),
    rooms=("attention/sea.py", "attention/_sea_estimate.py", "attention/_cells.py"),
    reached_by=('create_attention("sea")',),
    model="harken.attention.sea:SeaAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
