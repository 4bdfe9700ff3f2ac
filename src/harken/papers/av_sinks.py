"""Attention sinks and massive activations in audio-visual recognisers, and a loss against them (arXiv 2510.22603)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="av-sinks",
    title="Mitigating Attention Sinks and Massive Activations in Audio-Visual Speech Recognition with LLMs",
    arxiv="2510.22603",
    repository="umbertocappellazzo/Llama-AVSR",
    licence="none stated",
    kind=("lens",),
    rooms=("lens/sinks.py", "train/losses"),
    reached_by=("harken lens sinks",),
)
