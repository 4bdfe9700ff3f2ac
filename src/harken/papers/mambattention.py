"""MambAttention: enhance speech with Mamba and one attention shared by time and frequency (arXiv 2507.00966)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="mambattention",
    title="MambAttention: Mamba with Multi-Head Attention for Generalizable Single-Channel Speech Enhancement",
    arxiv="2507.00966",
    repository="NikolaiKyhne/MambAttention",
    licence="MIT",
    kind=("model",),
    rooms=("models/enhance/mambattention.py",),
    reached_by=("harken enhance",),
    related=("2501.06146",),
)
