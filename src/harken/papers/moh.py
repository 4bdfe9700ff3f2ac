"""MoH: attention whose heads are chosen and weighted token by token (arXiv 2410.11842)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="moh",
    title="MoH: Multi-Head Attention as Mixture-of-Head Attention",
    arxiv="2410.11842",
    repository="SkyworkAI/MoH",
    licence="Apache-2.0",
    kind=("attention",),
    rooms=("attention/moh.py",),
    reached_by=('create_attention("moh")',),
)
