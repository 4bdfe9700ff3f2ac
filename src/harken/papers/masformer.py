"""MASFormer: full attention in a few layers, short spans in the others (arXiv 2310.12442)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The masks of the four spans, and what causal attention within each gives."""
    import torch

    from harken.attention._local import Kind, Span
    from harken.attention.span import span_attention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    q, k, v = (case.io[name] for name in ("q", "k", "v"))
    block, window = case.config["block"], case.config["window_left"]
    spans: dict[str, tuple[Kind, int]] = {
        "full": ("full", 1),
        "block_own": ("block", block),
        "block_prev": ("previous", block),
        "window": ("window", window),
    }
    outputs: dict[str, Tensor] = {}
    place = torch.arange(q.shape[2])
    with torch.inference_mode():
        for name, (kind, size) in spans.items():
            if f"o.{name}" in case.io:
                outputs[f"o.{name}"] = span_attention(q, k, v, span=kind, span_size=size, causal=True)
            if f"mask.{name}" in case.io:
                outputs[f"mask.{name}"] = Span(kind, size).allowed(place, place, causal=True)
    return outputs


PAPER = Paper(
    slug="masformer",
    title="Efficient Long-Range Transformers: You Need to Attend More, but Not Necessarily at Every Layer",
    arxiv="2310.12442",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/span.py", "models/write/"),
    reached_by=('create_attention("span")',),
    model="harken.attention.span:SpanAttention",
    status="partial",
    missing="the stack that mixes spans per layer, and its claims; which of the block masks the authors use is unknown",
    replay=replay,
)
