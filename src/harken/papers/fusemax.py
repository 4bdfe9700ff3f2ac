"""FuseMax: attention as cascades of Einsums, counted in passes and costed on an accelerator (arXiv 2406.10491)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="fusemax",
    title="FuseMax: Leveraging Extended Einsums to Optimize Attention Accelerator Design",
    arxiv="2406.10491",
    repository="FPSG-UIUC/micro24-fusemax-artifact",
    licence="MIT",
    kind=("hardware",),
    rooms=("hardware/",),
    reached_by=("harken hardware",),
)
