"""Minimal transformer: no MLP, collapsed or symmetric matrices (arXiv 2410.13732)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.models.see.minimal_vit import MinimalViTConfig
    from harken.papers._trials import Trials


STEPS = 500
EXAMPLES = 1497
MARGIN = 0.01  # of accuracy: three of the 300 digits that judge

# heads, expansion of the MLP, what is left of the matrices
VARIANTS: dict[str, dict[str, Any]] = {
    "full_1_head": {"heads": 1},
    "full_4_heads": {"heads": 4},
    "collapsed_mlp": {"heads": 1, "query_key": "collapsed"},
    "minimum_mlp": {"heads": 1, "query_key": "collapsed", "value": "none"},
    "no_mlp_1_head": {"heads": 1, "expansion": 0.0},
    "no_mlp_4_heads": {"heads": 4, "expansion": 0.0},
    "collapsed": {"heads": 1, "expansion": 0.0, "query_key": "collapsed"},
    "minimum": {"heads": 1, "expansion": 0.0, "query_key": "collapsed", "value": "none"},
    "symmetric": {"heads": 4, "expansion": 0.0, "query_key": "symmetric"},
}


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Logits of every variant in the case, and its first layer's attention on the embedded image."""
    import torch

    from harken.models.see.minimal_vit import MinimalViT
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name in sorted(case.io):
            variant, _, what = name.rpartition(".")
            if what != "logits":
                continue
            config = _config(case.config, variant)
            model = MinimalViT.from_authors(case.part(f"{variant}."), config).eval()
            attended: list[Tensor] = []
            encoder: Any = model.encoders[0]
            hook = encoder.attention.register_forward_hook(lambda *call, kept=attended: kept.append(call[2]))
            outputs[name] = model(case.io["x"])
            hook.remove()
            outputs[f"{variant}.layer0_attn"] = attended[0]
    return outputs


def _config(theirs: dict[str, Any], variant: str) -> MinimalViTConfig:
    from harken.models.see.minimal_vit import MinimalViTConfig

    option, heads, mlp = variant.split(".")
    choices: dict[str, dict[str, Any]] = {
        "unchanged": {},
        "Wqk": {"query_key": "collapsed"},
        "Wqk+noWvWo": {"query_key": "collapsed", "value": "none"},
        "symmetry": {"query_key": "cholesky"},
    }
    return MinimalViTConfig(
        image_size=theirs["image"],
        patch_size=theirs["patch"],
        channels=theirs["channels"],
        classes=theirs["n_classes"],
        dim=theirs["embed_dim"],
        layers=theirs["num_layers"],
        heads=int(heads.removeprefix("h")),
        expansion=theirs["mlp_dim"] / theirs["embed_dim"] if mlp == "mlp" else 0.0,
        **choices[option],
    )


def less_is_enough(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Nine classifiers, from the full transformer to one matrix an encoder, on digits of unseen writers."""
    from dataclasses import replace
    from functools import partial

    from harken.models.see.minimal_vit import MinimalViT
    from harken.papers._vision import DATA, Digits, train_candidates
    from harken.tasks.small_training import Budget

    budget = Budget(steps=2, batch=4) if quick else Budget(STEPS, batch=32, lr=2e-3)
    seeds = range(seed, seed + (1 if quick else 3))
    base = MinimalViT.Config.small()
    if quick:
        base = replace(base, dim=8, layers=1)
    builds = {
        name: partial(MinimalViT, replace(base, **choices))
        for name, choices in VARIANTS.items()
        if not quick or name in ("full_1_head", "full_4_heads", "no_mlp_4_heads", "symmetric", "minimum")
    }
    accuracy, nats, _ = train_candidates(builds, Digits(), budget, seeds, progress)
    parameters = {f"parameters_{name}": float(count) for name, count in accuracy.parameters.items()}
    measured = {**accuracy.as_measured(), **nats.as_measured(), **parameters}
    full = ("full_1_head", "full_4_heads")
    baseline = {name: measured.pop(name) for name in list(measured) if any(part in name for part in full)}
    best = max(full, key=accuracy.mean)
    shares = {name: accuracy.parameters[name] / accuracy.parameters[best] for name in accuracy.parameters}
    told = (f"{name.replace('_', ' ')} {accuracy.text(name)} ({shares[name]:.0%})" for name in accuracy.values)
    return Evidence(
        measured=measured,
        baseline=baseline,
        verdict=_judge(accuracy, best),
        summary=f"Held-out digits (share of the full one's parameters): {', '.join(told)}.",
        settings={
            "data": DATA,
            "image_size": base.image_size,
            "patch_size": base.patch_size,
            "dim": base.dim,
            "layers": base.layers,
            "expansion": base.expansion,
            "dropout": base.dropout,
            "steps": budget.steps,
            "batch": budget.batch,
            "lr": budget.lr,
            "seeds": list(seeds),
            "overdetermination_of_the_full_one": EXAMPLES * 10 / accuracy.parameters[best],
            "margin": MARGIN,
            "rule": (
                "against the better full one: fails here if the symmetric one without MLP is worse by more than twice "
                "the margin and two standard errors, or the one without MLP is; holds if neither these nor the minimum "
                "are worse by more than the margin; holds in direction if the first two are not; else not shown here"
            ),
        },
    )


def _judge(accuracy: Trials, best: str) -> Verdict:
    """Fixed before the run: what the stripped ones lose against the better full one."""
    lost = {name: -accuracy.gain(name, best)[0] for name in ("symmetric", "no_mlp_4_heads", "minimum")}
    if any(accuracy.finding(name, best, 2 * MARGIN) == "worse" for name in ("symmetric", "no_mlp_4_heads")):
        return "fails here"
    if all(loss <= MARGIN for loss in lost.values()):
        return "holds"
    if lost["symmetric"] <= MARGIN and lost["no_mlp_4_heads"] <= MARGIN:
        return "holds in direction"
    return "not shown here"


CLAIMS = (
    Claim(
        name="less-is-enough",
        statement=(
            "Small image classifiers lose almost nothing without MLP, with one matrix for queries and keys, "
            "and little with a tenth to a third of the parameters."
        ),
        source="arXiv 2410.13732, sections on MNIST and CIFAR-10",
        paper_value=(
            "in words: on MNIST, about 25 % (symmetric) and 33 % (collapsed) of the parameters at a very close "
            "accuracy, the minimum slightly worse; its tables' numbers were not available to us"
        ),
        run=less_is_enough,
    ),
)

PAPER = Paper(
    slug="minimal-transformer",
    title="Reducing the Transformer Architecture to a Minimum",
    arxiv="2410.13732",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/minimal.py", "models/see/minimal_vit.py"),
    reached_by=('create_attention("minimal")', "harken see classify train --model minimal"),
    model="harken.models.see.minimal_vit:MinimalViT",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
