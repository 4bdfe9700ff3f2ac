"""MoH: attention whose heads are chosen and weighted token by token (arXiv 2410.11842)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor, nn

    from harken.papers._trials import Trials

LANGUAGE = Language(steps=300, lr=5e-3, layers=3, heads=8)
MARGIN = 0.02  # bits a byte; seeds alone make as much of a difference
RULE = (
    f"holds: MoH with 50 or 75 % of the heads beats all heads by more than {MARGIN} bits a byte and two standard "
    "errors, and MoH-50 beats random heads so; holds in direction: on average neither is worse than all heads by more "
    "than that margin, and MoH-50 beats random heads; fails here: both are worse than all heads, or "
    "random heads beat MoH-50"
)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The learned router in every split of a case, and the LLaMA layer whose heads are chosen by their queries."""
    import torch

    from harken.attention.moh import MoHAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for tag, theirs in case.config.get("moh", {}).items():
            weights = case.part(f"{tag}.")
            routed = theirs["routed_head"]
            layer = MoHAttention.from_authors(weights, heads=theirs["num_heads"], routed_heads=routed).eval()
            x = case.io["x"]
            outputs[f"out_{tag}"] = layer(x)
            outputs[f"gates_{tag}"] = layer.route(x)
            if f"lbl_{tag}" in case.io:
                outputs[f"lbl_{tag}"] = layer.load_balance(x).reshape(case.io[f"lbl_{tag}"].shape)
        llama = case.config.get("llama")
        if llama:
            layer = MoHAttention.from_authors(
                case.part("llama."),
                heads=llama["num_attention_heads"],
                shared_heads=llama["shared_head"],
                routed_heads=llama["routed_head"],
                rotary_base=float(llama["rope_theta"]),
                causal=True,
            ).eval()
            outputs["llama_out"] = layer(case.io["llama_x"])
            outputs["llama_head_mask"] = (layer.route(case.io["llama_x"]) > 0).to(torch.uint8)
    return outputs


def fewer_heads_do(seed: int, quick: bool, progress: Progress) -> Evidence:
    """All heads, three quarters and half of them chosen by the learned router, and half of them chosen at random.

    The random choice is fixed for each position and layer; everything else about it, the learned weights of the chosen
    heads included, is as in MoH.
    """
    language = LANGUAGE.for_run(quick)
    seeds = range(seed, seed + 2)
    balance = 0.01 / language.layers  # the paper averages the layers
    common = f"rotary_base=10000.0,balance_weight={balance}"
    half = language.decoder(f"moh:shared_heads=2,routed_heads=2,{common}", positions="none")
    trials = language.compare(
        {
            "all_heads": language.decoder("softmax:rotary_base=10000.0", positions="none"),
            "moh_75": language.decoder(f"moh:shared_heads=2,routed_heads=4,{common}", positions="none"),
            "moh_50": half,
            "random_50": _with_random_heads(half, language.length, chosen=2),
        },
        seeds,
        progress,
    )
    return Evidence(
        measured=trials.as_measured(["moh_75", "moh_50"]),
        baseline=trials.as_measured(["all_heads", "random_50"]),
        verdict=judge_heads(trials),
        summary=(
            f"Held-out bits a byte after {language.steps} equal steps: all 8 heads {trials.text('all_heads')}, "
            f"MoH with 75 % of them {trials.text('moh_75')}, with 50 % {trials.text('moh_50')}, "
            f"half of them at random {trials.text('random_50')}."
        ),
        settings=language.settings(
            seeds,
            RULE,
            positions="rotary",
            shared_heads=2,
            balance_weight_per_layer=balance,
            parameters=trials.parameters,
            by_seed=trials.values,
        ),
    )


def judge_heads(trials: Trials) -> Verdict:
    """By the rule in the settings, fixed before the run."""
    forms = ("moh_75", "moh_50")
    against_all = [trials.finding(form, than="all_heads", margin=MARGIN) for form in forms]
    against_random = trials.finding("moh_50", than="random_50", margin=MARGIN)
    if against_random == "worse" or against_all == ["worse", "worse"]:
        return "fails here"
    no_worse = all(trials.gain(form, than="all_heads")[0] >= -MARGIN for form in forms)
    if against_random == "better" and "better" in against_all and "worse" not in against_all:
        return "holds"
    return "holds in direction" if against_random == "better" and no_worse else "not shown here"


def _with_random_heads(build: Callable[[], nn.Module], length: int, chosen: int) -> Callable[[], nn.Module]:
    def built() -> nn.Module:
        import torch

        model: Any = build()
        for number, block in enumerate(model.blocks):
            router = block.attention.routed
            noise = torch.rand(length, router.out_features, generator=torch.Generator().manual_seed(number))
            allowed = torch.zeros_like(noise, dtype=torch.bool).scatter(1, noise.topk(chosen).indices, True)
            router.register_forward_hook(_only(allowed))
        return model

    return built


def _only(allowed: Tensor) -> Callable[[Any, Any, Tensor], Tensor]:
    """A hook that leaves each position only its allowed heads to choose from."""

    def hook(module: Any, arguments: Any, logits: Tensor) -> Tensor:
        return logits.masked_fill(~allowed[: logits.shape[1]], -1e4)

    return hook


CLAIMS = (
    Claim(
        name="fewer-heads",
        statement=(
            "Each position can do with half to three quarters of the heads, chosen by a learned router, without losing "
            "quality, and even gain."
        ),
        source="arXiv 2410.11842, language models trained from scratch",
        paper_value=(
            "average accuracy on 6 tasks, small model, 100 B tokens: 45.4 % with 50 % of the heads, 44.6 % with 75 %, "
            "43.9 % with all; larger model: 47.2 %, 47.8 %, 47.4 %"
        ),
        run=fewer_heads_do,
    ),
)

PAPER = Paper(
    slug="moh",
    title="MoH: Multi-Head Attention as Mixture-of-Head Attention",
    arxiv="2410.11842",
    repository="SkyworkAI/MoH",
    licence="Apache-2.0",
    kind=("attention",),
    rooms=("attention/moh.py",),
    reached_by=('create_attention("moh")',),
    model="harken.attention.moh:MoHAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
