"""Sparsifiner: a vision transformer that predicts, image by image, which pairs to attend (arXiv 2303.13755)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.models.see.vit import ViTConfig
    from harken.papers._trials import Trials

KEEPS = (0.5, 0.25, 0.1)
JUDGED_AT = "25%"
MARGIN = 0.005  # of accuracy; the paper loses at most 0.4 points


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' layer with both rules and in the stage that reconstructs; their network with its masks."""
    import torch

    from harken.models.see.vit import ViT
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    with torch.inference_mode():
        ours = _layer(case.config, case.part("attn."), case.io["attn_x"])
        net = case.config["net"]
        model = ViT.from_authors(case.part("net."), _config(net, case.weights)).eval()
        ours |= _network(model, case.io["image"])
    return {name: tensor for name, tensor in ours.items() if name in case.io}


def _layer(config: dict[str, Any], weights: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    from harken.attention.sparsifiner import SparsifinerAttention

    attn, rules = config["attn"], config["attn"]["cfg"]
    options = {
        "heads": attn["num_heads"],
        "keep": attn["attn_keep_rate"],
        "coefficients": rules["BASIS_COEF_TOPK"],
        "basis_threshold": rules["BASIS_THRESHOLD"],
    }
    thresholds = config["threshold_variant"]
    layer = SparsifinerAttention.from_authors(weights, **options).eval()
    threshold = SparsifinerAttention.from_authors(
        weights,
        score_threshold=thresholds["ATTN_SCORE_THRESHOLD"],
        coefficient_threshold=thresholds["BASIS_COEF_THRESHOLD"],
        **options,
    ).eval()
    recon = SparsifinerAttention.from_authors(weights, stage="reconstruct", **options).eval()
    q, k, _ = layer.project(x)
    coefficients, basis = layer.guess(q, k)
    signed_coefficients, signed = recon.guess(q, k)
    return {
        "attn_out": layer(x),
        "basis_coef": coefficients,
        "approx_attn": coefficients @ basis,
        "attn_mask": layer.connectivity(q, k),
        "masked_attn": layer.weights(x),
        "attn_out_threshold": threshold(x),
        "attn_mask_threshold": threshold.connectivity(q, k),
        "recon_out": recon(x),
        "recon_approx_attn": signed_coefficients @ signed,
        "recon_dense_attn": recon.weights(x),
    }


def _network(model: Any, image: Tensor) -> dict[str, Tensor]:
    """Logits and features with the pruned tokens really gone; masks, which span them too, with them kept as zeros."""
    from harken.observation import observe

    encoded = model.encode(image)
    ours = {"logits": model(image), "features": encoded.patches}
    with observe(model, "mask", "tokens") as seen:
        model.encode(image, drop=False)
    ours |= {f"mask{i}": mask for i, mask in enumerate(seen["mask"].values())}
    return ours | {f"token_mask{i}": tokens for i, tokens in enumerate(seen["tokens"].values())}


def _config(net: dict[str, Any], weights: dict[str, Tensor]) -> ViTConfig:
    from harken.models.see.vit import ViTConfig

    rules, written, shares, left = net["cfg"], [], [], 1.0
    for i, keep in enumerate(net["attn_keep_rate_list"]):
        prefix = f"net.blocks.{i}.attn.mask_predictor."
        rank, reduced = weights[prefix + "proj_n"].shape[1], weights[prefix + "proj_c_q.weight"].shape[0]
        written.append(
            f"sparsifiner:keep={keep},rank={rank},reduced_dim={reduced},coefficients={rules['BASIS_COEF_TOPK']},"
            f"basis_threshold={rules['BASIS_THRESHOLD']}"
        )
        if net["token_pruning_loc_indicator"][i]:
            left = min(left, net["token_keep_rate_list"][i])
        shares.append(left)
    return ViTConfig(
        image_size=net["img_size"],
        patch_size=net["patch_size"],
        channels=net["in_chans"],
        classes=net["num_classes"],
        dim=net["embed_dim"],
        layers=net["depth"],
        heads=net["num_heads"],
        expansion=net["mlp_ratio"],
        attention=tuple(written),
        token_keep=tuple(shares) if left < 1 else (),
        pruned="zeroed",
    )


def chosen_keys_are_enough(seed: int, quick: bool, progress: Progress) -> Evidence:
    """A dense ViT made sparse in two stages at three budgets, against random, local and oracle masks alike trained."""
    from harken.models.see.vit import ViTConfig
    from harken.papers._sparse_masks import SparseStudy
    from harken.papers._trials import Trials
    from harken.papers._vision import DATA, Digits
    from harken.tasks.small_training import Budget

    if quick:
        config = ViTConfig(image_size=8, patch_size=4, channels=1, classes=10, dim=8, layers=1, heads=2, expansion=1.0)
        budgets = [Budget(1, 4)] * 3
    else:
        config = ViTConfig(
            image_size=12, patch_size=2, channels=1, classes=10, dim=32, layers=4, heads=4, expansion=2.0
        )
        budgets = [Budget(900, 32, lr=4e-3), Budget(100, 32, lr=3e-3), Budget(60, 32, lr=5e-4)]
    digits = Digits(config.image_size)
    seeds = range(seed, seed + (1 if quick else 3))
    keeps = (0.25,) if quick else KEEPS
    untuned, tuned = Trials("accuracy"), Trials("accuracy")
    for number, one in enumerate(seeds):

        def told(share: float, note: str, number: int = number, one: int = one) -> None:
            progress((number + share) / len(seeds), f"{note}, seed {one}")

        SparseStudy(digits, config, *budgets, rank=9, seed=one).run(keeps, untuned, tuned, told)
    learned = [name for name in tuned.values if name.startswith("learned")]
    others = [name for name in tuned.values if not name.startswith("learned")]
    before = [f"{name}_before_training" for name in untuned.values]
    untuned.values = dict(zip(before, untuned.values.values(), strict=True))
    found = {**tuned.as_measured(), **untuned.as_measured()}
    rules = ("learned", "oracle", "local", "random")
    scores = "; ".join(
        f"{keep:.0%} of the keys: " + ", ".join(f"{rule} {tuned.text(f'{rule}_{keep:.0%}')}" for rule in rules)
        for keep in keeps
    )
    return Evidence(
        measured={name: value for name, value in found.items() if any(own in name for own in learned)},
        baseline={name: value for name, value in found.items() if any(own in name for own in others)},
        verdict=_judge(tuned),
        summary=f"Digits of unseen writers: dense {tuned.text('dense')}; {scores}.",
        settings={
            "data": DATA,
            "image_size": config.image_size,
            "tokens": (config.image_size // config.patch_size) ** 2 + 1,
            "dim": config.dim,
            "layers": config.layers,
            "heads": config.heads,
            "predictor_rank": 9,
            "steps_dense_predictor_student": [budget.steps for budget in budgets],
            "batch": budgets[0].batch,
            "lr_dense_predictor_student": [budget.lr for budget in budgets],
            "seeds": list(seeds),
            "margin": MARGIN,
            "rule": (
                f"at {JUDGED_AT} of the keys: fails here if the learned choice is worse than the random or the local "
                "one by more than the margin and two standard errors; holds if it loses no more than the margin "
                "against dense attention trained as long and is better than both, by more than the margin and two "
                "standard errors; holds in direction if it is better than both but loses more, or loses no more and "
                "its mean is above both at every budget; else not shown here"
            ),
        },
    )


def _judge(tuned: Trials) -> Verdict:
    """Fixed before the run: against dense attention, and against choices that nothing was learned for."""
    rivals = ("random", "local")
    findings = [tuned.finding(f"learned_{JUDGED_AT}", f"{rule}_{JUDGED_AT}", MARGIN) for rule in rivals]
    if "worse" in findings:
        return "fails here"
    near = -tuned.gain(f"learned_{JUDGED_AT}", "dense")[0] <= MARGIN
    if findings == ["better", "better"]:
        return "holds" if near else "holds in direction"
    budgets = [name.removeprefix("learned_") for name in tuned.values if name.startswith("learned_")]
    ahead = all(tuned.mean(f"learned_{keep}") > tuned.mean(f"{rule}_{keep}") for keep in budgets for rule in rivals)
    return "holds in direction" if near and ahead else "not shown here"


CLAIMS = (
    Claim(
        name="chosen-keys-are-enough",
        statement=(
            "A quarter of the keys, chosen for each image and query by a small predictor, is enough for the accuracy "
            "of full attention, and better than keys chosen blindly."
        ),
        source="arXiv 2303.13755, abstract",
        paper_value=(
            "at most 0.4 points of ImageNet top-1 lost with 48 % to 69 % fewer FLOPs in attention (DeiT-S: 79.8 %); "
            "the rows of its tables were not available to us"
        ),
        run=chosen_keys_are_enough,
    ),
)

PAPER = Paper(
    slug="sparsifiner",
    title="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
    arxiv="2303.13755",
    repository="lim142857/Sparsifiner",
    licence="MIT",
    kind=("attention", "model"),
    rooms=("attention/sparsifiner.py", "models/see/vit.py"),
    reached_by=('create_attention("sparsifiner")', "harken see classify train --model sparsifiner"),
    model="harken.models.see.vit:ViT",
    status="partial",
    missing="the LV-ViT backbone; the two-stage training as a recipe (its claim has it)",
    claims=CLAIMS,
    replay=replay,
)
