"""AP-BWE: extend the bandwidth of speech by predicting amplitude and phase in parallel (arXiv 2401.06387)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="ap-bwe",
    title="Towards High-Quality and Efficient Speech Bandwidth Extension with Parallel Amplitude and Phase Prediction",
    arxiv="2401.06387",
    repository="yxlu-0102/AP-BWE",
    licence="MIT",
    kind=("model",),
    rooms=("models/enhance/ap_bwe.py",),
    reached_by=("harken extend",),
    related=("2406.02250",),
)
