"""MoH: attention whose heads are chosen and weighted token by token (arXiv 2410.11842)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The learned router in every split of a case, and the LLaMA layer whose heads are chosen by their queries."""
    import torch

    from harken.attention.moh import MoHAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for tag, theirs in case.config.get("moh", {}).items():
            weights = _part(case.weights, f"{tag}.")
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
                _part(case.weights, "llama."),
                heads=llama["num_attention_heads"],
                shared_heads=llama["shared_head"],
                routed_heads=llama["routed_head"],
                rotary_base=float(llama["rope_theta"]),
                causal=True,
            ).eval()
            outputs["llama_out"] = layer(case.io["llama_x"])
            outputs["llama_head_mask"] = (layer.route(case.io["llama_x"]) > 0).to(torch.uint8)
    return outputs


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


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
    status="partial",
    missing="its claims are not run; training of the norm router is our reading, since it was not released",
    replay=replay,
)
