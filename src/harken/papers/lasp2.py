"""LASP-2: one long sequence over many processes, at the price of one small gather (arXiv 2502.07563)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="lasp2",
    title="LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its Hybrid",
    arxiv="2502.07563",
    repository="OpenSparseLLMs/Linear-MoE",
    licence="Apache-2.0",
    kind=("hardware",),
    rooms=("scale/sequence.py",),
    reached_by=("torchrun ... harken",),
    related=("2404.02882",),
)
