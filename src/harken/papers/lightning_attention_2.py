"""Lightning Attention-2: tiles that keep causal linear attention linear, forward and backward (arXiv 2401.04658)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The tiled sum with and without decay, its gradients and last state; the example layer; the norm; the slopes."""
    import torch

    from harken.attention._decayed import decayed_attention
    from harken.attention.lightning import LightningAttention, head_slopes
    from harken.layers.transformer import make_norm
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    io, outputs = case.io, {}
    for kind in ("decay", "nodecay"):
        if f"{kind}.q" not in io:
            continue
        q, k, v = (io[f"{kind}.{name}"].clone().requires_grad_() for name in "qkv")
        slopes = io[f"{kind}.slopes"].flatten() if f"{kind}.slopes" in io else torch.zeros(q.shape[1])
        mixed, state = decayed_attention(q, k, v, slopes, chunk_size=16)  # short, so that a short case has many tiles
        outputs[f"{kind}.o"], outputs[f"{kind}.final_state"] = mixed.detach(), state.detach()
        if f"{kind}.do" in io:
            gradients = torch.autograd.grad(mixed, (q, k, v), io[f"{kind}.do"])
            outputs |= {f"{kind}.d{name}": gradient for name, gradient in zip("qkv", gradients, strict=True)}
    with torch.inference_mode():
        if "module.x" in io:
            sizes = case.config["module"]
            weights = {name.removeprefix("module."): tensor for name, tensor in case.weights.items()}
            layer = LightningAttention.from_authors(
                weights, sizes["num_heads"], layer=sizes["layer_idx"], layers=sizes["num_layers"], chunk_size=16
            )
            outputs["module.y"] = layer(io["module.x"])
        if "srms.x" in io:
            outputs["srms.y"] = make_norm("simple-rms", io["srms.x"].shape[-1])(io["srms.x"])
    for name, saved in io.items():
        if name.startswith("slopes_"):
            outputs[name] = head_slopes(len(saved))
    return outputs


PAPER = Paper(
    slug="lightning-attention-2",
    title="Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models",
    arxiv="2401.04658",
    repository="OpenNLPLab/lightning-attention",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/lightning.py",),
    reached_by=('create_attention("lightning")',),
    model="harken.attention.lightning:LightningAttention",
    status="partial",
    missing="its claims: equal loss to the quadratic form, and time per token that does not depend on length",
    replay=replay,
)
