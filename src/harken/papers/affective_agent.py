"""Affective agent: hear the emotion in a voice, answer it, and speak with emotion (arXiv 2304.11046)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="affective-agent",
    title="Affective social anthropomorphic intelligent system",
    arxiv="2304.11046",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/speak/affective_agent.py", "tasks/converse.py"),
    reached_by=("harken converse",),
)
