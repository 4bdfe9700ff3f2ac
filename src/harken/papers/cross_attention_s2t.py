"""Cross-attention as an explanation: how far it agrees with saliency in speech-to-text (arXiv 2509.18010)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="cross-attention-s2t",
    title="Cross-Attention is Half Explanation in Speech-to-Text Models",
    arxiv="2509.18010",
    repository="hlt-mt/FBK-fairseq",
    licence="Apache-2.0",
    kind=("lens",),
    rooms=("lens/cross_attention.py",),
    reached_by=("harken lens cross-attention",),
    related=("2411.01710",),
)
