"""ViT heads: which matter, how far they look, and what patterns they draw (arXiv 2303.13731)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="vit-head-analytics",
    title="How Does Attention Work in Vision Transformers?",
    arxiv="2303.13731",
    repository=None,
    licence="no code published",
    kind=("lens",),
    rooms=("lens/vit_heads.py",),
    reached_by=("harken lens vit",),
)
