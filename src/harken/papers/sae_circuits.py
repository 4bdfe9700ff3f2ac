"""SAE circuits: find the heads of a circuit from the codes of a small sparse autoencoder (arXiv 2405.12522)."""

from __future__ import annotations

from harken.papers._record import Paper

PAPER = Paper(
    slug="sae-circuits",
    title="Sparse Autoencoders Enable Scalable and Reliable Circuit Identification",
    arxiv="2405.12522",
    repository="charlieoneill11/sae-circuits",
    licence="MIT",
    kind=("lens",),
    rooms=("lens/sparse_autoencoder.py",),
    reached_by=("harken lens circuit --method sae",),
)
