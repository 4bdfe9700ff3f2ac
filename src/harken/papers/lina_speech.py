"""Lina-Speech: text to speech on gated linear attention, a voice held in its initial state (arXiv 2410.23320)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="lina-speech",
    title="Lina-Speech: Gated Linear Attention is a Fast and Parameter-Efficient Learner for text-to-speech synthesis",
    arxiv="2410.23320",
    repository="theodorblackbird/lina-speech",
    licence="CC BY-NC-SA 4.0",
    kind=("attention", "model"),
    rooms=("attention/gated_linear.py", "models/speak/lina_speech.py"),
    reached_by=("harken speak",),
)
