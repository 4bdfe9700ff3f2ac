"""SSVEP-DNN: which flickering character a speller's user looks at, from a second of EEG (arXiv 2011.08562)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="ssvep-dnn",
    title="A Deep Neural Network for SSVEP-based Brain-Computer Interfaces",
    arxiv="2011.08562",
    repository="osmanberke/Deep-SSVEP-BCI",
    licence="GPL-3.0",
    kind=("model",),
    rooms=("models/brain/ssvep_dnn.py",),
    reached_by=("harken brain ssvep",),
)
