"""SEA: sparse attention at the places that a small network estimates (arXiv 2310.01777)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.errors import InputError
from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Both orders on the saved queries, keys and values, with every intermediate and the distillation loss."""
    import torch

    from harken.attention._cells import widen
    from harken.attention.sea import Lesson, SeaAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    if case.config.get("k_oversample", 1.0) != 1 or not case.config.get("partial_attention_scaler", True):
        raise InputError("this replay has neither k_oversample other than 1 nor partial_attention_scaler off")
    outputs: dict[str, Tensor] = {}
    for mode, options in case.config["modes"].items():
        causal, side = options["causal"], mode.partition("_")[0]
        prefix = f"{side}."
        layer = SeaAttention.from_authors(
            {name.removeprefix(prefix): w for name, w in case.weights.items() if name.startswith(prefix)},
            heads=case.config["num_attention_heads"],
            causal=causal,
            keys=case.config["k"],
            grouping=options["k_flatten_dim"],
        ).eval()
        q, k, v, added, scores, context = (
            case.io[f"{side}_{name}"] for name in ("q", "k", "v", "mask", "teacher_scores", "teacher_context")
        )
        time = q.shape[2]
        mask = None if causal else added[:, 0, 0] > -1
        if causal:
            q = q * layer.head_dim**0.5  # theirs comes scaled, ours scales
        with torch.inference_mode():
            parts = layer.parts(q, k, v, None if mask is None else mask.sum(-1))
            loss = layer.distillation(q, k, v, Lesson(scores, context), mask)
            places = torch.arange(1, time + 1)
            widths = places[None] if mask is None else mask.sum(-1)[:, None].expand(-1, time)
            ours = {
                "context": layer.mix(q, k, v, mask).transpose(1, 2).flatten(2),
                "attn": parts.sparse,
                "avg": (parts.average @ v.masked_fill(~mask[:, None, :, None], 0.0))
                if mask is not None
                else parts.average @ v,
                "est_probs": parts.map,
                "est_resized": widen(parts.estimate.scores.softmax(-1), time, widths),
                "mix": parts.estimate.gates,
                "performer": parts.estimate.performer,
                "compressed_mask": parts.kept.to(torch.uint8),
                "sparse_mask": parts.mask.to(torch.uint8),
                "loss": loss[None],
            }
        outputs |= {f"{mode}_{name}": value for name, value in ours.items() if f"{mode}_{name}" in case.io}
    return outputs


PAPER = Paper(
    slug="sea",
    title="SEA: Sparse Linear Attention with Estimated Attention Mask",
    arxiv="2310.01777",
    repository="gmlwns2000/sea-attention",
    licence="none stated",
    kind=("attention",),
    rooms=("attention/sea.py", "attention/_sea_estimate.py", "attention/_cells.py"),
    reached_by=('create_attention("sea")',),
    model="harken.attention.sea:SeaAttention",
    status="partial",
    missing="its claim has not been run: distilled from a softmax teacher it stays close, and Performer does not",
    replay=replay,
)
