"""Sparsifiner: a vision transformer that predicts, image by image, which pairs to attend (arXiv 2303.13755)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="sparsifiner",
    title="Sparsifiner: Learning Sparse Instance-Dependent Attention for Efficient Vision Transformers",
    arxiv="2303.13755",
    repository="lim142857/Sparsifiner",
    licence="MIT",
    kind=("attention", "model"),
    rooms=("attention/sparsifiner.py", "models/see/vit.py"),
    reached_by=('create_attention("sparsifiner")',),
)
