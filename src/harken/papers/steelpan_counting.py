"""SPNet: find and count the rings of vibrating steelpans in interferograms (arXiv 2102.00632)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="steelpan-counting",
    title="ConvNets for Counting: Object Detection of Transient Phenomena in Steelpan Drums",
    arxiv="2102.00632",
    repository="drscotthawley/SPNet",
    licence="MIT",
    kind=("model",),
    rooms=("models/see/steelpan.py",),
    reached_by=("harken see rings",),
    related=("2110.12261",),
)
