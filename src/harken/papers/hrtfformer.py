"""HRTFformer: a listener's HRTF in every direction from a few measured ones (arXiv 2510.01891)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="hrtfformer",
    title="HRTFformer: A Spatially-Aware Transformer for Individual HRTF Upsampling in Immersive Audio Rendering",
    arxiv="2510.01891",
    repository="GeorgeHux/HRTFformer",
    licence="none stated",
    kind=("model",),
    rooms=("models/enhance/hrtfformer.py",),
    reached_by=("harken hrtf",),
)
