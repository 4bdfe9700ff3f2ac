"""MASFormer: full attention in a few layers, short spans in the others (arXiv 2310.12442)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="masformer",
    title="Efficient Long-Range Transformers: You Need to Attend More, but Not Necessarily at Every Layer",
    arxiv="2310.12442",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/span.py", "models/write/"),
    reached_by=('create_attention("span")',),
)
