"""Circuit reuse: find a task's circuit of heads, compare circuits, and repair one (arXiv 2310.08744)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="circuit-reuse",
    title="Circuit Component Reuse Across Tasks",
    arxiv="2310.08744",
    repository="jmerullo/circuit_reuse",
    licence="MIT",
    kind=("lens",),
    rooms=("lens/circuits.py",),
    reached_by=("harken lens circuit",),
)
