"""CM-HRNN: melodies over given chords, by recurrent layers at several time scales (arXiv 2102.09794)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="cm-hrnn",
    title="Hierarchical Recurrent Neural Networks for Conditional Melody Generation with Long-term Structure",
    arxiv="2102.09794",
    repository="AMAAI-Lab/CM-HRNN",
    licence="none stated",
    kind=("model",),
    rooms=("models/compose/cm_hrnn.py",),
    reached_by=("harken compose",),
)
