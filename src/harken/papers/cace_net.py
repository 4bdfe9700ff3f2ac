"""CACE-Net: when in a video something is both seen and heard, and what it is (arXiv 2408.01952)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="cace-net",
    title="CACE-Net: Co-guidance Attention and Contrastive Enhancement for Effective Audio-Visual Event Localization",
    arxiv="2408.01952",
    repository="Brain-Cog-Lab/CACE-Net",
    licence="MIT",
    kind=("model",),
    rooms=("models/hear/cace_net.py",),
    reached_by=("harken localize",),
)
