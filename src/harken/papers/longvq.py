"""LongVQ: gated attention over a structured memory, with keys from a codebook (arXiv 2404.11163)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="longvq",
    title="LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory",
    arxiv="2404.11163",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/longvq.py",),
    reached_by=('create_attention("longvq")',),
)
