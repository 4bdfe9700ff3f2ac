"""Deconstructed attention: which of its design principles a language model needs (arXiv 2510.11602)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="deconstructing-attention",
    title="Deconstructing Attention: Investigating Design Principles for Effective Language Modeling",
    arxiv="2510.11602",
    repository="HUIYINXUE/DeconAttn",
    licence="no code published",
    kind=("attention",),
    rooms=("attention/deconstructed.py",),
    reached_by=('create_attention("deconstructed", variant=...)',),
)
