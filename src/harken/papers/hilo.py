"""HiLo: attention with local heads for detail and pooled heads for context, and LITv2 (arXiv 2205.13213)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor

    from harken.attention.hilo import HiLoAttention
    from harken.models.see.litv2 import LITv2Config


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' layer at every saved share of heads, its two branches, and their LITv2 with its stages."""
    import torch

    from harken.attention.hilo import HiLoAttention
    from harken.models.see.litv2 import LITv2
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    grid = (case.config["H"], case.config["W"])
    ours: dict[str, Tensor] = {}
    with torch.inference_mode():
        for tag, options in case.config["hilo"].items():
            layer = HiLoAttention.from_authors(
                _part(case.weights, f"{tag}."), heads=options["num_heads"], window_size=options["window_size"]
            ).eval()
            y = layer(case.io["x"], grid=grid)
            ours[f"out_{tag}"] = y
            ours |= _branches(layer, y.unflatten(1, grid), tag)
        net = case.config["net"]
        model = LITv2.from_authors(_part(case.weights, "net."), _config(net, case.io["image"])).eval()
        ours["logits"] = model(case.io["image"])
        for i, stage in enumerate(model.maps(case.io["image"])):
            ours[f"stage{i}_out"] = stage.flatten(1, 2)
    return {name: tensor for name, tensor in ours.items() if name in case.io}


def _branches(layer: HiLoAttention, y: Tensor, tag: str) -> dict[str, Tensor]:
    """The two groups' outputs, which lie side by side in the layer's."""
    high, low = y.split((layer.high_dim, layer.low_dim), -1)
    return {f"hifi_{tag}": high, f"lofi_{tag}": low}


def _config(net: dict[str, Any], image: Tensor) -> LITv2Config:
    from harken.models.see.litv2 import LITv2Config

    return LITv2Config(
        patch_size=net["patch_size"],
        channels=image.shape[1],
        classes=net["num_classes"],
        dim=net["embed_dim"],
        depths=tuple(net["depths"]),
        heads=tuple(net["num_heads"]),
        expansion=net["mlp_ratio"],
        attention=tuple(
            f"hilo:window_size={side},alpha={net['alpha']}" if attends else "none"
            for attends, side in zip(net["has_msa"], net["local_ws"], strict=True)
        ),
        drop_path=0.0,
    )


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


PAPER = Paper(
    slug="hilo",
    title="Fast Vision Transformers with HiLo Attention",
    arxiv="2205.13213",
    repository="ziplab/LITv2",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/hilo.py", "models/see/litv2.py"),
    reached_by=('create_attention("hilo")',),
    model="harken.models.see.litv2:LITv2",
    status="partial",
    missing="a training recipe with weights of our own; runnable claims of speed and accuracy",
    replay=replay,
)
