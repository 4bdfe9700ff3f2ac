"""MAPSS: how well sources are separated, and how well they match, judged on a manifold (arXiv 2509.09212)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="mapss",
    title="MAPSS: Manifold-based Assessment of Perceptual Source Separation",
    arxiv="2509.09212",
    repository="Amir-Ivry/MAPSS-measures",
    licence="MIT",
    kind=("score",),
    rooms=("score/mapss.py",),
    reached_by=("harken score separation",),
)
