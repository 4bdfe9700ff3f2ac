"""FastSpeech: text to mel spectrogram in parallel, with predicted durations (arXiv 1905.09263)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="fastspeech",
    title="FastSpeech: Fast, Robust and Controllable Text to Speech",
    arxiv="1905.09263",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/speak/fastspeech.py",),
    reached_by=("harken speak",),
)
