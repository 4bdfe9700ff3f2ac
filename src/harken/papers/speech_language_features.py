"""Speech and language features: measures of cognition and thought from talk (arXiv 1906.01157)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="speech-language-features",
    title="A Review of Automated Speech and Language Features for Assessment of Cognitive and Thought Disorders",
    arxiv="1906.01157",
    repository=None,
    licence="no code published",
    kind=("score",),
    rooms=("score/speech_language/",),
    reached_by=("harken features",),
)
