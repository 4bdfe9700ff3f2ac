"""MALA: linear attention in which the length of a query sharpens its weights (arXiv 2507.00698)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="mala",
    title="Rectifying Magnitude Neglect in Linear Attention",
    arxiv="2507.00698",
    repository="qhfan/MALA",
    licence="none stated",
    kind=("attention",),
    rooms=("attention/mala.py",),
    reached_by=('create_attention("mala")',),
)
