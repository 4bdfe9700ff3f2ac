"""HRTFformer: a listener's HRTF in every direction from a few measured ones (arXiv 2510.01891)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Harmonics, coefficients, losses, the encoder part by part and one iterative projection on a case's inputs."""
    import torch

    from harken.layers.iterative_projection import IterativeProjection
    from harken.models._base import build
    from harken.models.enhance.hrtfformer import Encoder, HRTFformerConfig, own_names
    from harken.papers.parity import load_case
    from harken.score.hrtf import (
        grid_neighbours,
        level_difference_error,
        neighbour_dissimilarity,
        spectral_distortion,
    )
    from harken.signal.spherical_harmonics import SphericalFit

    case = load_case(case_dir)
    c, io = case.config, case.io
    azimuths, elevations = c["row_azimuth_deg"], c["col_elevation_deg"]
    directions = torch.cartesian_prod(*(torch.tensor(part, dtype=torch.float64) for part in (azimuths, elevations)))
    chosen = torch.tensor(sorted(row * len(elevations) + column for row, column in c["sparse_points_row_col"]))
    dense, sparse = SphericalFit(directions, c["max_degree"]), SphericalFit(directions[chosen], c["sparse_degree"])
    field = io["field"]
    coefficients = dense.coefficients(field)
    made = dense.evaluate(coefficients)

    sizes, inner = c["encoder"], c["iterative"]
    config = HRTFformerConfig(
        bins=sizes["nbins"] // 2,
        input_degree=round(sizes["initial_size"] ** 0.5) - 1,
        degree=round(sizes["target_size"] ** 0.5) - 1,
        hidden=sizes["hidden_size"],
        heads=sizes["num_heads"],
        groups=sizes["num_groups"],
        layers=sizes["num_layers"],
        norm=_NORMS[sizes["norm"]],
        channel_cap=sizes["channel_cap"],
        encoder_hidden=sizes["fc_hidden"],
        latent=sizes["latent_dim"],
    )
    encoder: Any = build(lambda: Encoder(config), _below(own_names(case.weights), "encoder.")).eval()
    turns = _below(own_names(case.weights), "iterative.")
    ups = 1 + max(int(name.split(".")[1]) for name in turns if name.startswith("ups."))
    projection: Any = build(
        lambda: IterativeProjection(
            inner["channels"],
            inner["out_channels"],
            ups=ups,
            kernel=inner["kernel"],
            stride=inner["stride"],
            padding=inner["padding"],
        ),
        turns,
    ).eval()
    first = encoder.stages[0]
    with torch.inference_mode():
        x = io["enc_in"]
        mixed = first.blocks[0](x)
        return {
            "sparse_index": chosen,
            "sh_matrix_full": dense.basis,
            "sh_matrix_sparse": sparse.basis,
            "coef_full": coefficients,
            "coef_sparse": sparse.coefficients(field[chosen]),
            "recon": made,
            "loss_sd": spectral_distortion(made, field),
            "loss_ild": level_difference_error(made, field),
            "loss_nd": neighbour_dissimilarity(made, field, grid_neighbours(len(azimuths), len(elevations))),
            "attention0_out": first.blocks[0].attention(x),
            "tblock0_out": mixed,
            "down0_out": first.down(first.blocks(x)),
            "latent": encoder(x),
            "iter_out": projection(io["iter_in"]),
        }


_NORMS: dict[str, Any] = {"token_scale": "token-scale", "rms_norm": "rms", "layer_norm": "layer", "batch": "batch"}


def _below(parameters: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}


PAPER = Paper(
    slug="hrtfformer",
    title="HRTFformer: A Spatially-Aware Transformer for Individual HRTF Upsampling in Immersive Audio Rendering",
    arxiv="2510.01891",
    repository="GeorgeHux/HRTFformer",
    licence="none stated",
    kind=("model",),
    rooms=(
        "models/enhance/hrtfformer.py",
        "layers/iterative_projection.py",
        "signal/spherical_harmonics.py",
        "score/hrtf.py",
        "train/hrtf.py",
        "tasks/upsample_hrtf.py",
    ),
    reached_by=("harken hrtf",),
    model="harken.models.enhance.hrtfformer:HRTFformer",
    status="partial",
    missing="no weights ship yet; its claims have not been run",
    replay=replay,
)
