"""Multiple-choice circuits: which heads of a language model pick the answer's letter (arXiv 2307.09458)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="circuit-scaling",
    title="Does Circuit Analysis Interpretability Scale?",
    arxiv="2307.09458",
    repository=None,
    licence="no code published",
    kind=("lens",),
    rooms=("lens/circuits.py", "lens/multiple_choice.py"),
    reached_by=("harken lens choice",),
)
