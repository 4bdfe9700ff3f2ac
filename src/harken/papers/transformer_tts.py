"""Transformer TTS: text to mel spectrogram by attention throughout (arXiv 1809.08895)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="transformer-tts",
    title="Neural Speech Synthesis with Transformer Network",
    arxiv="1809.08895",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/speak/transformer_tts.py",),
    reached_by=("harken speak",),
    cases=("tacotron2",),
)
