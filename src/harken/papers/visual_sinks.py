"""Visual sinks: take attention back from the image tokens that collect it for nothing (arXiv 2503.03321)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="visual-sinks",
    title="See What You Are Told: Visual Attention Sink in Large Multimodal Models",
    arxiv="2503.03321",
    repository="seilk/VisAttnSink",
    licence="Apache-2.0",
    kind=("lens",),
    rooms=("lens/sinks.py", "lens/redistribute.py"),
    reached_by=("harken lens sinks",),
)
