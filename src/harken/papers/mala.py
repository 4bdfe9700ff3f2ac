"""MALA: linear attention in which the length of a query sharpens its weights (arXiv 2507.00698)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' linear and softmax vision layers, and the linear one's weights with and without rotary positions."""
    import torch

    from harken.attention._local_gated import LocalGatedSoftmax
    from harken.attention.mala import MalaAttention, mala_attention, mala_weights
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs = case.config["attn"]
    grid = (theirs["H"], theirs["W"])
    parts = {
        name: {key.removeprefix(name): tensor for key, tensor in case.weights.items() if key.startswith(name)}
        for name in ("attn.", "vanilla.")
    }
    linear = MalaAttention.from_authors(parts["attn."], theirs["num_heads"]).eval()
    softmax = LocalGatedSoftmax.from_authors(parts["vanilla."], theirs["num_heads"]).eval()
    with torch.inference_mode():
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
        }


PAPER = Paper(
    slug="mala",
    title="Rectifying Magnitude Neglect in Linear Attention",
    arxiv="2507.00698",
    repository="qhfan/MALA",
    licence="none stated",
    kind=("attention",),
    rooms=("attention/mala.py",),
    reached_by=('create_attention("mala")',),
    model="harken.attention.mala:MalaAttention",
    status="partial",
    missing="the MAViT backbone; a runnable claim",
    replay=replay,
)
