"""WERSA: linear-time attention on wavelet scales of queries and keys (arXiv 2507.08637)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="wersa",
    title="Scaling Attention to Very Long Sequences in Linear Time "
    "with Wavelet-Enhanced Random Spectral Attention (WERSA)",
    arxiv="2507.08637",
    repository="vincenzodentamaro/wersa",
    licence="no code published",
    kind=("attention",),
    rooms=("attention/wersa.py",),
    reached_by=('create_attention("wersa")',),
)
