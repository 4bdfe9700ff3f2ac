"""MVPFormer: attention over time and channels that predicts and reads intracranial EEG (arXiv 2506.20354)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="mvpformer",
    title="A foundation model with multi-variate parallel attention to generate neuronal activity",
    arxiv="2506.20354",
    repository="IBM/multi-variate-parallel-transformer",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/multivariate.py", "models/brain/mvpformer.py"),
    reached_by=("harken brain seizure",),
)
