"""Demucs and Conv-TasNet: separate drums, bass, voice and the rest of a stereo mix (arXiv 1911.13254)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="demucs",
    title="Music source separation in the waveform domain",
    arxiv="1911.13254",
    repository="facebookresearch/demucs",
    licence="MIT",
    kind=("model",),
    rooms=("models/separate/demucs.py", "models/separate/conv_tasnet.py"),
    reached_by=("harken separate",),
)
