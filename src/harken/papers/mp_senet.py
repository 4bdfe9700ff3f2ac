"""MP-SENet: enhance speech by estimating magnitude and phase in parallel (arXiv 2308.08926)."""

from __future__ import annotations

from harken.papers._record import Claim, Paper, Replay

# the experiments: one function (seed, quick, progress) -> Evidence for each claim
CLAIMS: tuple[Claim, ...] = ()

# our model on a parity case: a function (case directory) -> outputs under their saved names
replay: Replay | None = None

PAPER = Paper(
    slug="mp-senet",
    title="Explicit Estimation of Magnitude and Phase Spectra in Parallel for High-Quality Speech Enhancement",
    arxiv="2308.08926",
    repository="yxlu-0102/MP-SENet",
    licence="MIT",
    kind=("model",),
    rooms=("models/enhance/mp_senet.py",),
    reached_by=("harken enhance",),
    model="harken.models.enhance.mp_senet:MPSENet",
    status="works",
    claims=CLAIMS,
    replay=replay,
    angles=("noisy_pha", "clean_pha", "pha_g"),
    related=("2305.13686",),
)
