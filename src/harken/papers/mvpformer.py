"""MVPFormer: attention over time and channels that predicts and reads intracranial EEG (arXiv 2506.20354)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The attention of the first layer, on the saved tokens of the wavelet encoder: its matrix and its output."""
    import torch
    from torch.nn.functional import rms_norm

    from harken.attention.multivariate import MultivariateAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    layer = MultivariateAttention.from_authors(
        case.weights, heads=case.config["n_head"], content_window=case.config["window"]
    ).eval()
    tokens = case.io["tokens"]
    grid = (tokens.shape[2], tokens.shape[1])
    with torch.inference_mode():
        norm = case.weights["mvpformer.h.0.ln_1.weight"]
        x = rms_norm(tokens, norm.shape, norm, case.config["norm_eps"]).flatten(1, 2)
        return {
            "layer0_attn_weights": layer.weights(x, grid=grid),
            "layer0_attn_out": layer(x, grid=grid).view_as(tokens),
        }


PAPER = Paper(
    slug="mvpformer",
    title="A foundation model with multi-variate parallel attention to generate neuronal activity",
    arxiv="2506.20354",
    repository="IBM/multi-variate-parallel-transformer",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/multivariate.py", "models/brain/mvpformer.py"),
    reached_by=("harken brain seizure", 'create_attention("multivariate")'),
    model="harken.attention.multivariate:MultivariateAttention",
    status="partial",
    missing="the model around the attention: wavelet encoder, generative training, seizure detection; a runnable claim",
    replay=replay,
)
