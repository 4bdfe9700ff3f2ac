"""Lightning Attention: causal linear attention in blocks, and the TransNormerLLM around it (arXiv 2405.17381)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="lightning-attention",
    title="Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention",
    arxiv="2405.17381",
    repository="OpenNLPLab/TransnormerLLM",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/lightning.py", "models/write/transnormer.py"),
    reached_by=('create_attention("lightning")',),
    related=("2307.14995",),
)
