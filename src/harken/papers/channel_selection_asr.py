"""Channel selection: recognise distant speech from whichever microphones hear it best (arXiv 2312.09746)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="channel-selection-asr",
    title="Automatic channel selection and spatial feature integration for multi-channel speech "
    "recognition across various array topologies",
    arxiv="2312.09746",
    repository=None,
    licence="no code published",
    kind=("model",),
    rooms=("models/hear/channel_selection.py",),
    reached_by=("harken transcribe",),
    related=("2210.05265",),
)
