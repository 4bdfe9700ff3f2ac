"""PeriodWave-Turbo: the PeriodWave vocoder tuned, adversarially, to a few fixed steps (arXiv 2408.08019)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="periodwave-turbo",
    title="Accelerating High-Fidelity Waveform Generation via Adversarial Flow Matching Optimization",
    arxiv="2408.08019",
    repository="sh-lee-prml/PeriodWave",
    licence="MIT",
    kind=("model",),
    rooms=("models/speak/periodwave.py", "train/"),
    reached_by=("harken vocode",),
)
