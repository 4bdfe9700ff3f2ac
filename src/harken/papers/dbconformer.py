"""DBConformer: decode EEG trials with one branch over time and one over channels (arXiv 2506.21140)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="dbconformer",
    title="DBConformer: Dual-Branch Convolutional Transformer for EEG Decoding",
    arxiv="2506.21140",
    repository="wzwvv/DBConformer",
    licence="PolyForm Noncommercial 1.0.0",
    kind=("model",),
    rooms=("models/brain/dbconformer.py",),
    reached_by=("harken brain decode",),
)
