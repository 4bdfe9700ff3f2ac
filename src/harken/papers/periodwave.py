"""PeriodWave: a vocoder by flow matching on waveforms folded at several periods (arXiv 2408.07547)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="periodwave",
    title="PeriodWave: Multi-Period Flow Matching for High-Fidelity Waveform Generation",
    arxiv="2408.07547",
    repository="sh-lee-prml/PeriodWave",
    licence="MIT",
    kind=("model",),
    rooms=("models/speak/periodwave.py",),
    reached_by=("harken speak", "harken vocode"),
    cases=("periodwave-mb",),
)
