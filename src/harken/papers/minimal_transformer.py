"""Minimal transformer: no MLP, collapsed or symmetric matrices (arXiv 2410.13732)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="minimal-transformer",
    title="Reducing the Transformer Architecture to a Minimum",
    arxiv="2410.13732",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/minimal.py", "models/see/vit.py"),
    reached_by=('create_attention("minimal")',),
)
