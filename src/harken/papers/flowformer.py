"""Flow-Attention: linear attention from the conservation of flow (arXiv 2202.06258)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="flowformer",
    title="Flowformer: Linearizing Transformers with Conservation Flows",
    arxiv="2202.06258",
    repository="thuml/Flowformer",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/flow.py",),
    reached_by=('create_attention("flow")',),
)
