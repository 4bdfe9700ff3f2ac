"""MALA: linear attention in which the length of a query sharpens its weights (arXiv 2507.00698)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from harken.models.see.mavit import MAViTConfig
    from harken.models.see.vit import ViT
    from harken.papers._trials import Trials

STEPS = 700
LR = 4e-3
MARGIN = 0.005  # of accuracy
PAPER_SHARE = 0.15  # of plain linear attention's errors that disappear: (75.1 - 69.8) / (100 - 69.8) on ImageNet
MECHANISMS = ("softmax", "linear", "mala")
SCALES = (1.0, 4.0)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' linear and softmax vision layers, the linear one's weights, and their backbone stage by stage."""
    import torch

    from harken.attention._local_gated import LocalGatedSoftmax
    from harken.attention.mala import MalaAttention, mala_attention, mala_weights
    from harken.models.see.mavit import MAViT
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs = case.config["attn"]
    grid = (theirs["H"], theirs["W"])
    linear = MalaAttention.from_authors(case.part("attn."), theirs["num_heads"]).eval()
    softmax = LocalGatedSoftmax.from_authors(case.part("vanilla."), theirs["num_heads"]).eval()
    backbone = MAViT.from_authors(case.part("net."), _config(case.config["net"])).eval()
    with torch.inference_mode():
        image = case.io["image"]
        stages = {f"stage{i}_out": stage for i, stage in enumerate(backbone.maps(image))}
        x = case.io["attn_x"].flatten(2).transpose(1, 2)
        q, k, v = linear.project(x)
        angles = linear.angles(x, grid)
        assert angles is not None
        plain_weights, z = mala_weights(q, k)
        return {
            "rope_cos": angles.cos().repeat_interleave(2, -1),
            "rope_sin": angles.sin().repeat_interleave(2, -1),
            "z": z,
            "attn_map": linear.weights(x, grid=grid),
            "attn_map_no_rope": plain_weights,
            "core_out_no_rope": mala_attention(q, k, v),
            "attn_out": linear(x, grid=grid).transpose(1, 2).unflatten(2, grid),
            "vanilla_out": softmax(x, grid=grid).transpose(1, 2).unflatten(2, grid),
            "patch_embed_out": backbone.stem(image),
            **stages,
            "logits": backbone(image),
        }


def _config(net: dict[str, Any]) -> MAViTConfig:
    from harken.models.see.mavit import MAViTConfig

    return MAViTConfig(
        channels=net["in_chans"],
        classes=net["num_classes"],
        dims=tuple(net["embed_dims"]),
        depths=tuple(net["depths"]),
        heads=tuple(net["num_heads"]),
        expansions=tuple(float(ratio) for ratio in net["mlp_ratios"]),
        projection=net["projection"],
        attention=tuple("mala" if flags[0] == "l" else "softmax" for flags in net["flagss"]),
        drop_path=0.0,
    )


def magnitude_matters(seed: int, quick: bool, progress: Progress) -> Evidence:
    """The same small ViT with three attentions on digits, and how each one's weights sharpen as queries grow."""
    from dataclasses import replace
    from functools import partial

    from harken.models.see.vit import ViT, ViTConfig
    from harken.papers._vision import DATA, Digits, train_candidates
    from harken.tasks.small_training import Budget

    budget = Budget(2, 4) if quick else Budget(STEPS, 32, lr=LR)
    seeds = range(seed, seed + (1 if quick else 5))
    config = ViTConfig(
        image_size=8, patch_size=2, channels=1, classes=10, dim=32, layers=4, heads=4, expansion=2.0, pool="mean"
    )
    if quick:
        config = replace(config, dim=8, layers=1, heads=2)
    digits = Digits()
    builds = {name: partial(ViT, replace(config, attention=(name,))) for name in MECHANISMS}
    accuracy, nats, models = train_candidates(builds, digits, budget, seeds, progress)
    images = digits.held_out.images[: 32 if quick else 300]
    sharpness: dict[str, float] = {}
    for name in MECHANISMS:
        model: Any = models[name][0]
        for scale, (peak, entropy) in _sharpness(model, images).items():
            sharpness[f"peak_over_uniform_at_{scale:.0f}x_{name}"] = peak
            sharpness[f"entropy_nats_at_{scale:.0f}x_{name}"] = entropy
    growth = {
        name: sharpness[f"peak_over_uniform_at_4x_{name}"] / sharpness[f"peak_over_uniform_at_1x_{name}"]
        for name in MECHANISMS
    }
    measured = {**accuracy.as_measured(["mala"]), **nats.as_measured(["mala"])}
    baseline = {**accuracy.as_measured(["softmax", "linear"]), **nats.as_measured(["softmax", "linear"])}
    for name, value in sharpness.items():
        (measured if name.endswith("_mala") else baseline)[name] = value
    scores = ", ".join(f"{name} {accuracy.text(name)}" for name in MECHANISMS)
    grown = ", ".join(f"{name} {growth[name]:.2f}x" for name in MECHANISMS)
    return Evidence(
        measured=measured,
        baseline=baseline,
        verdict=_judge(accuracy, growth),
        summary=(
            f"Accuracy on digits of unseen writers: {scores}. Queries (their features, where there are some) four "
            f"times as long make the largest weight grow: {grown}."
        ),
        settings={
            "data": DATA,
            "model": "ViT",
            "dim": config.dim,
            "layers": config.layers,
            "heads": config.heads,
            "tokens": 16,
            "steps": budget.steps,
            "batch": budget.batch,
            "lr": budget.lr,
            "seeds": list(seeds),
            "sharpness": "mean over the held-out digits, layers, heads and queries of the first seed's models; "
            "entropy of the weights' magnitudes, each row divided by its sum",
            "margin": MARGIN,
            "rule": (
                "fails here if MALA is worse than plain linear attention by more than the margin and two standard "
                "errors, or its weights do not grow by 1.05 where plain linear attention's stay (within 1.001); else "
                "not shown here unless better than plain linear attention by more than the margin and two standard "
                f"errors; then holds if at least {PAPER_SHARE:.0%} of linear's errors disappear and MALA is not worse "
                "than softmax by more than the margin, else holds in direction"
            ),
        },
    )


def _sharpness(model: ViT, images: Tensor) -> dict[float, tuple[float, float]]:
    """Largest weight over a uniform one, and entropy, as queries of trained layers are scaled."""
    import torch

    from harken.attention.linear import elu_features
    from harken.attention.mala import mala_weights

    captured: list[tuple[str, Tensor, Tensor]] = []
    layers: list[Any] = [block.attention for block in model.blocks]
    hooks = [
        layer.register_forward_pre_hook(
            lambda layer, inputs: captured.append((layer.name, *layer.project(inputs[0])[:2]))
        )
        for layer in layers
    ]
    with torch.inference_mode():
        model(images)
        for hook in hooks:
            hook.remove()
        found = {}
        for scale in SCALES:
            peaks, entropies = [], []
            for name, q, k in captured:
                if name == "softmax":
                    weights = (scale * q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
                elif name == "linear":
                    products = scale * elu_features(q) @ elu_features(k).transpose(-1, -2)
                    weights = products / products.sum(-1, keepdim=True)
                else:  # features are positive, so that "relu" leaves the scaled ones as they are
                    weights, _ = mala_weights(scale * elu_features(q), elu_features(k), feature="relu")
                shares = weights.abs() / weights.abs().sum(-1, keepdim=True)
                peaks.append(weights.max(-1).values.mean() * weights.shape[-1])
                entropies.append(-(shares * shares.clamp_min(1e-12).log()).sum(-1).mean())
            found[scale] = (float(torch.stack(peaks).mean()), float(torch.stack(entropies).mean()))
    return found


def _judge(accuracy: Trials, growth: dict[str, float]) -> Verdict:
    """Fixed before the run: accuracy against plain linear and softmax attention, and how weights answer to length."""
    finding = accuracy.finding("mala", "linear", MARGIN)
    if finding == "worse" or growth["mala"] < 1.05 or abs(growth["linear"] - 1) > 1e-3:
        return "fails here"
    if finding == "unclear":
        return "not shown here"
    share = accuracy.gain("mala", "linear")[0] / (1 - accuracy.mean("linear"))
    level = accuracy.finding("mala", "softmax", MARGIN) != "worse"
    return "holds" if share >= PAPER_SHARE and level else "holds in direction"


CLAIMS = (
    Claim(
        name="magnitude-matters",
        statement=(
            "Linear attention whose weights answer to the length of the query beats plain linear attention, "
            "whose weights do not, and reaches softmax attention."
        ),
        source="arXiv 2507.00698, DeiT-T with the attention swapped",
        paper_value="ImageNet top-1 of DeiT-T: MALA 75.1 %, plain linear attention 69.8 %, softmax 72.2 %",
        run=magnitude_matters,
    ),
)


PAPER = Paper(
    slug="mala",
    title="Rectifying Magnitude Neglect in Linear Attention",
    arxiv="2507.00698",
    repository="qhfan/MALA",
    licence="none stated",
    kind=("attention", "model"),
    rooms=("attention/mala.py", "models/see/mavit.py"),
    reached_by=('create_attention("mala")', "harken see classify train --model mavit"),
    model="harken.models.see.mavit:MAViT",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
