"""SinkLoRA: longer contexts by shifted local attention with sink tokens, and a pruned cache (arXiv 2406.05678)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="sinklora",
    title="SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models",
    arxiv="2406.05678",
    repository="Dexter-GT-86/SinkLoRA",
    licence="Apache-2.0",
    kind=("attention",),
    rooms=("attention/shifted.py", "attention/cache.py"),
    reached_by=('create_attention("sink-shifted")',),
    related=("2309.12307",),
)
