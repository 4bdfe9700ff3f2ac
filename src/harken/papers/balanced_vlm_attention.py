"""Balanced attention: fewer objects invented by raising attention to informative image tokens (arXiv 2501.12206)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="balanced-vlm-attention",
    title="Fixing Imbalanced Attention to Mitigate In-Context Hallucination of Large Vision-Language Model",
    arxiv="2501.12206",
    repository="hasanar1f/llava-hallunication-fix",
    licence="none stated",
    kind=("lens",),
    rooms=("lens/rebalance.py",),
    reached_by=("harken lens rebalance",),
)
