"""Sparsifiner: a vision transformer that predicts, image by image, which pairs to attend (arXiv 2303.13755)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor

    from harken.models.see.vit import ViTConfig


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' layer with both rules and in the stage that reconstructs; their network with its masks."""
    import torch

    from harken.models.see.vit import ViT
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    with torch.inference_mode():
        ours = _layer(case.config, _part(case.weights, "attn."), case.io["attn_x"])
        net = case.config["net"]
        model = ViT.from_authors(_part(case.weights, "net."), _config(net, case.weights)).eval()
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


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


PAPER = Paper(
    slug="sparsifiner",
    title="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
    arxiv="2303.13755",
    repository="lim142857/Sparsifiner",
    licence="MIT",
    kind=("attention", "model"),
    rooms=("attention/sparsifiner.py", "models/see/vit.py"),
    reached_by=('create_attention("sparsifiner")',),
    model="harken.models.see.vit:ViT",
    status="partial",
    missing="the LV-ViT backbone; the two-stage training as a recipe; a runnable claim",
    replay=replay,
)
