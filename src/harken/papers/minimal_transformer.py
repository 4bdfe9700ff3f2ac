"""Minimal transformer: no MLP, collapsed or symmetric matrices (arXiv 2410.13732)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The first layer's attention of every variant in the case, on its embedded image."""
    import torch
    import torch.nn.functional as F

    from harken.attention.minimal import MinimalAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    outputs = {}
    with torch.inference_mode():
        for name in sorted(case.io):
            if not name.endswith(".layer0_attn"):
                continue
            variant = name.removesuffix(".layer0_attn")
            option, heads, _ = variant.split(".")

            def weights(prefix: str, variant: str = variant) -> dict[str, Tensor]:
                start = f"{variant}.{prefix}."
                return {key.removeprefix(start): w for key, w in case.weights.items() if key.startswith(start)}

            embedding = weights("embedding")
            kernel = embedding["patcher.0.weight"]
            patches = F.conv2d(case.io["x"], kernel, embedding["patcher.0.bias"], stride=kernel.shape[-1])
            patches = patches.flatten(2).transpose(1, 2)
            start = embedding["cls_token"].expand(patches.shape[0], -1, -1)
            tokens = torch.cat((start, patches), 1) + embedding["position_embeddings"]
            theirs = weights("transformer_encoder.layers.0.self_attn")
            outputs[name] = MinimalAttention.from_authors(theirs, option=option, heads=int(heads[1:]))(tokens)
    return outputs


PAPER = Paper(
    slug="minimal-transformer",
    title="Reducing the Transformer Architecture to a Minimum",
    arxiv="2410.13732",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/minimal.py", "models/see/vit.py"),
    reached_by=('create_attention("minimal")',),
    model="harken.attention.minimal:MinimalAttention",
    status="partial",
    missing="the attention is here; the image classifier, with and without MLP, and the claims are not",
    replay=replay,
)
