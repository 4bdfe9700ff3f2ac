"""SEA: sparse attention at the places that a small network estimates (arXiv 2310.01777)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="sea",
    title="SEA: Sparse Linear Attention with Estimated Attention Mask",
    arxiv="2310.01777",
    repository="gmlwns2000/sea-attention",
    licence="none stated",
    kind=("attention",),
    rooms=("attention/sea.py",),
    reached_by=('create_attention("sea")',),
)
