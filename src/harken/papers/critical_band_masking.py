"""Critical-band masking: which spatial frequencies a classifier of images listens to (arXiv 2309.13190)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="critical-band-masking",
    title="Spatial-frequency channels, shape bias, and adversarial robustness",
    arxiv="2309.13190",
    repository="ajaysub110/critical-band-masking",
    licence="none stated",
    kind=("lens",),
    rooms=("lens/critical_band.py",),
    reached_by=("harken lens bands",),
)
