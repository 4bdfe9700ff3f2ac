"""HiLo: attention with local heads for detail and pooled heads for context, and LITv2 (arXiv 2205.13213)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="hilo",
    title="Fast Vision Transformers with HiLo Attention",
    arxiv="2205.13213",
    repository="ziplab/LITv2",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/hilo.py", "models/see/litv2.py"),
    reached_by=('create_attention("hilo")',),
)
