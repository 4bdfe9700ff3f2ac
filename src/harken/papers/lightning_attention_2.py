"""Lightning Attention-2: tiles that keep causal linear attention linear, forward and backward (arXiv 2401.04658)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="lightning-attention-2",
    title="Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models",
    arxiv="2401.04658",
    repository="OpenNLPLab/lightning-attention",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/lightning.py",),
    reached_by=('create_attention("lightning")',),
)
