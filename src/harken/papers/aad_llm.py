"""AAD-LLM: auditory scenes understood from the side of the talker a listener attends to (arXiv 2502.16794)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="aad-llm",
    title="AAD-LLM: Neural Attention-Driven Auditory Scene Understanding",
    arxiv="2502.16794",
    repository="AAD-LLM/AAD-LLM.github.io",
    licence="no code published",
    kind=("model",),
    rooms=("models/brain/aad_llm.py",),
    reached_by=("harken brain attend",),
)
