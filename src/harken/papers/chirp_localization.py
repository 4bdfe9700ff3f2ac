"""Chirp localization: where a chirp starts and ends in a spectrogram, by a tuned ViT (arXiv 2503.22713)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="chirp-localization",
    title="Chirp Localization via Fine-Tuned Transformer Model",
    arxiv="2503.22713",
    repository="nbahador/Train_Spectrogram_Transformer",
    licence="MIT",
    kind=("model",),
    rooms=("models/brain/chirp.py",),
    reached_by=("harken brain chirp",),
)
