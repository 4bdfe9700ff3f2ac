"""Geometric EEG: denoise by attention, then classify on a learned manifold (arXiv 2502.05334)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="geometric-eeg",
    title="Geometric Machine Learning on EEG Signals",
    arxiv="2502.05334",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/brain/geometric.py",),
    reached_by=("harken brain geometric",),
    related=("2502.05332",),
)
