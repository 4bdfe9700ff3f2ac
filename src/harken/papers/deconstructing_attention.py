"""Deconstructed attention: which of its design principles a language model needs (arXiv 2510.11602)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._language import Language, orders, orders_text
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Finding, Trials

LANGUAGE = Language(steps=200, lr=5e-3)
MARGIN = 0.03  # bits a byte; one seed
VARIANTS = ("mlp", "approximate", "non-approximate", "rnd-emb-qk", "fixed-seq-qk", "static-emb-qk")
MIXING = ("approximate", "rnd-emb-qk", "fixed-seq-qk", "static-emb-qk")
UNIFORM = (
    ("standard", "approximate"),
    *(("approximate", constant) for constant in MIXING[1:]),
    *((mixing, "mlp") for mixing in MIXING),
    ("mlp", "non-approximate"),
)
HYBRID = (
    *((f"{variant}_hybrid", variant) for variant in VARIANTS),
    *((f"{variant}_hybrid", "mlp_hybrid") for variant in VARIANTS[1:]),
)
CLOSE = 0.25
RULE = (
    f"each pair: better or worse by more than {MARGIN} bits a byte, else unclear. Central: every mixing variant but "
    "non-approximate beats mlp; every hybrid but that of mlp loses to standard at most a quarter of what mlp loses; "
    "every skip model is worse than mlp. holds: all pairs and all central ones as in the paper; holds in direction: "
    "all central ones; fails here: no mixing variant beats mlp, or most hybrids are worse than their uniform models"
)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Every token mixer of the study on a case's inputs, and the indicators of the standard one's maps."""
    import torch

    from harken.attention.cumulative import position_scores
    from harken.attention.deconstructed import DeconstructedAttention
    from harken.attention.taylor import taylor_features
    from harken.lens.indicators import attention_indicators
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    x, heads = case.io["H"], case.config["heads"]

    def mixer(part: str, **options: Any) -> Any:
        return DeconstructedAttention.from_authors(case.part(f"{part}."), heads=heads, causal=True, **options)

    with torch.inference_mode():
        standard = mixer("attn")
        indicators = attention_indicators(standard.weights(x))
        per_key = mixer("attn", variant="non-approximate")
        q, k, _ = per_key.project(x)
        outputs = {
            "standard.y": standard(x),
            "standard.A": standard.weights(x),
            "non_approx.y": per_key(x),
            "non_approx.logits": position_scores(q, k),
            "mlp.y": mixer("mlp", variant="mlp")(x),
            "approx.y": mixer("approx", variant="approximate")(case.io["approx.x"]),
            "approx.feature_map_out": taylor_features(case.io["approx.feature_map_in"]),
            "ind.entropy": indicators.entropy,
            "ind.conc": indicators.concentration,
            "ind.head_div": indicators.head_diversity,
            "ind.sink": indicators.sink,
            "ind.locfoc": indicators.local_focus,
        }
        for suffix, base in (("", None), ("_rope", float(case.config["rope_theta"]))):
            fixed = mixer("attn", variant="fixed-seq-qk", rotary_base=base)
            static = mixer("attn", variant="static-emb-qk", rotary_base=base)
            outputs[f"fixed_qk{suffix}.y"] = fixed(x, source=case.io["X_fixed"])
            outputs[f"static_emb_qk{suffix}.y"] = static(x, source=case.io["e_static"])
        outputs["standard_rope.y"] = mixer("attn", rotary_base=float(case.config["rope_theta"]))(x)
    return outputs


def principles(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Every variant in all layers, and in every other layer; and the latter without those layers, not trained again."""
    import numpy as np

    from harken.papers._deconstructed_decoder import DeconstructedDecoder
    from harken.tasks.small_training import judge

    language = LANGUAGE.for_run(quick)
    task = language.make_task()
    text = task.batch(np.random.default_rng(seed), 1)[0][0]
    models: dict[str, nn.Module] = {}  # kept, since the hybrids are needed again when they are trained

    def candidate(name: str, *variants: str) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            models[name] = DeconstructedDecoder(
                variants,
                language.dim,
                language.layers,
                language.heads,
                task.vocabulary,
                text=text,
                longest=language.length,
                seed=seed,
            )
            return models[name]

        return build

    candidates = {"standard": candidate("standard", "standard")}
    for variant in VARIANTS:
        candidates[variant] = candidate(variant, variant)
        candidates[f"{variant}_hybrid"] = candidate(f"{variant}_hybrid", variant, "standard")
    trials = language.compare(candidates, [seed], progress)
    for variant in VARIANTS:
        hybrid: Any = models[f"{variant}_hybrid"]
        trials.values[f"{variant}_skip"] = [judge(hybrid.without([variant]), task, language.batch)]
    found = orders(trials, [*UNIFORM, *HYBRID], MARGIN)
    central = central_findings(trials)
    return Evidence(
        measured={f"bits_per_byte_{name}": trials.mean(name) for name in trials.values if name != "standard"},
        baseline={"bits_per_byte_standard": trials.mean("standard")},
        verdict=judge_principles(found, central),
        summary=(
            f"Held-out bits a byte after {language.steps} equal steps: standard {trials.mean('standard'):.3f}; in all "
            "layers / in every other one / without those: "
            + ", ".join(
                f"{variant} " + " / ".join(f"{trials.mean(variant + kind):.3f}" for kind in ("", "_hybrid", "_skip"))
                for variant in VARIANTS
            )
            + f". {orders_text(found)}. "
            + ", ".join(f"{finding}: {'yes' if true else 'no'}" for finding, true in central.items())
            + "."
        ),
        settings=language.settings(
            [seed],
            RULE,
            positions="rotary",
            parameters=trials.parameters,
            comparisons=dict(found),
            central=dict(central),
        ),
    )


def central_findings(trials: Trials) -> dict[str, bool]:
    """What the study's conclusions rest on, each true or not here."""
    standard, mlp = trials.mean("standard"), trials.mean("mlp")
    return {
        "mixing helps": all(trials.finding(name, than="mlp", margin=MARGIN) == "better" for name in MIXING),
        "hybrids are close": all(
            trials.mean(f"{name}_hybrid") - standard <= max(CLOSE * (mlp - standard), MARGIN) for name in VARIANTS[1:]
        ),
        "skipping breaks": all(
            trials.finding(f"{name}_skip", than="mlp", margin=MARGIN) == "worse" for name in VARIANTS
        ),
    }


def judge_principles(found: Mapping[str, Finding], central: Mapping[str, bool]) -> Verdict:
    """By the rule in the settings, fixed before the run."""
    reversed_hybrids = sum(found[f"{name}_hybrid before {name}"] == "worse" for name in VARIANTS)
    if not any(found[f"{name} before mlp"] == "better" for name in MIXING) or reversed_hybrids > len(VARIANTS) / 2:
        return "fails here"
    if not all(central.values()):
        return "not shown here"
    return "holds" if all(finding == "better" for finding in found.values()) else "holds in direction"


CLAIMS = (
    Claim(
        name="principles",
        statement=(
            "A language model needs layers that mix tokens, but not all of standard attention in every layer: with it "
            "in every other layer, the others may relax any one of its principles at little cost, but not be left out."
        ),
        source="arXiv 2510.11602, 500 M parameters: uniform, hybrid and skip models",
        paper_value=(
            "perplexity on WikiText, standard 38.1; uniform / hybrid: mlp 993.5 / 45.8, approximate 47.9 / 39.4, "
            "non-approximate 9E+4 / 39.4, rnd-emb-qk 84.8 / 39.3, fixed-seq-qk 79.1 / 38.5, static-emb-qk 79.9 / 38.7; "
            "skip models above 2E+4"
        ),
        run=principles,
    ),
)

PAPER = Paper(
    slug="deconstructing-attention",
    title="Deconstructing Attention: Investigating Design Principles for Effective Language Modeling",
    arxiv="2510.11602",
    repository="HUIYINXUE/DeconAttn",
    licence="no code published",
    kind=("attention",),
    rooms=(
        "attention/deconstructed.py",
        "attention/taylor.py",
        "attention/cumulative.py",
        "attention/constant_maps.py",
        "lens/indicators.py",
    ),
    reached_by=('create_attention("deconstructed", variant=...)',),
    model="harken.attention.deconstructed:DeconstructedAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
