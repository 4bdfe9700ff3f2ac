"""LiPCoT: signal windows as words, by linear prediction and clustering (arXiv 2408.07292)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="lipcot",
    title="LiPCoT: Linear Predictive Coding based Tokenizer for time series",
    arxiv="2408.07292",
    repository="MDFahimAnjum/LiPCoT",
    licence="MIT",
    kind=("model",),
    rooms=("models/brain/lipcot.py", "signal/lpc.py"),
    reached_by=("harken brain tokens",),
)
