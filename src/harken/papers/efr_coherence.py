"""EEG envelope following responses: averaged spectra and coherence between electrodes (arXiv 2507.05635)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="efr-coherence",
    title="Frequency-Specific Neural Response and Cross-Correlation Analysis of Envelope Following Responses",
    arxiv="2507.05635",
    repository="hasan-rakibul/speech-efr-eeg",
    licence="Apache-2.0",
    kind=("score",),
    rooms=("models/brain/efr.py",),
    reached_by=("harken brain efr",),
)
