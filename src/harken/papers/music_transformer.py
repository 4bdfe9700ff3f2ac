"""Music Transformer: compose with learned relative attention in linear extra memory (arXiv 1809.04281)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="music-transformer",
    title="Music Transformer: Generating Music with Long-Term Structure",
    arxiv="1809.04281",
    repository="tensorflow/tensor2tensor",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/relative.py", "models/compose/music_transformer.py"),
    reached_by=("harken compose",),
)
