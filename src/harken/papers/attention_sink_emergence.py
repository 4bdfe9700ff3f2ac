"""Sinks in training: when and why a language model puts its attention on the first token (arXiv 2410.10781)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="attention-sink-emergence",
    title="When Attention Sink Emerges in Language Models",
    arxiv="2410.10781",
    repository="sail-sg/Attention-Sink",
    licence="MIT",
    kind=("lens",),
    rooms=("lens/sinks.py", "train/"),
    reached_by=("harken lens sinks",),
)
