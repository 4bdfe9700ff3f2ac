"""Brain to speech: which segment a person heard, matched contrastively from M/EEG (arXiv 2208.12266)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="brain-speech-decoding",
    title="Decoding speech from non-invasive brain recordings",
    arxiv="2208.12266",
    repository="facebookresearch/brainmagick",
    licence="CC BY-NC 4.0",
    kind=("model",),
    rooms=("models/brain/speech_decoding.py",),
    reached_by=("harken brain speech",),
)
