"""Look Once to Hear: keep the one voice that a wearer looked at, from a noisy example (arXiv 2405.06289)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="look-once-to-hear",
    title="Look Once to Hear: Target Speech Hearing with Noisy Examples",
    arxiv="2405.06289",
    repository="vb000/LookOnceToHear",
    licence="non-commercial",
    kind=("model",),
    rooms=("models/separate/look_once.py",),
    reached_by=("harken extract",),
)
