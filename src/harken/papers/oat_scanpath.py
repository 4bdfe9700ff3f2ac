"""OAT: the order in which a person looks at the objects of a scene while searching (arXiv 2407.13335)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="oat-scanpath",
    title="OAT: Object-level Attention Transformer for gaze scanpath prediction",
    arxiv="2407.13335",
    repository="HKUST-NISL/oat_eccv24",
    licence="none stated",
    kind=("model",),
    rooms=("models/see/oat.py",),
    reached_by=("harken see scanpath",),
)
