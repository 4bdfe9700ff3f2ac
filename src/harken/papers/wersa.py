"""WERSA: linear-time attention on wavelet scales of queries and keys (arXiv 2507.08637)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """An independent implementation's layer step by step; the authors have published none."""
    import torch
    import torch.nn.functional as F

    from harken.attention._chunked import kernel_attention
    from harken.attention._haar import haar
    from harken.attention.wersa import WersaAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    heads, saved = case.config["num_heads"], case.io
    layer = WersaAttention.from_authors(case.weights, heads).eval()

    def merged(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)

    with torch.inference_mode():
        filters = layer.scale_gates(saved["filter_source"])
        q, k = (split(layer.filtered(merged(saved[name]), filters)) for name in ("q", "k"))
        kernel = layer.random_kernel()
        core = kernel_attention(kernel, q, k, saved["v"], causal=False, mask=None, chunk_size=64)
        time = saved["q"].shape[2]
        scales = haar(F.pad(F.gelu(merged(saved["q"])), (0, 0, 0, layer.padded_length(time) - time)), layer.levels)
        return {
            "filters": filters,
            "q_filtered": q,
            "k_filtered": k,
            "phi_q": kernel.queries(q),
            "phi_k": kernel.keys(k),
            "core": core,
            "out": layer.norm(core),
            **{f"haar_{level}": split(scale) for level, scale in enumerate(scales)},
        }


PAPER = Paper(
    slug="wersa",
    title="Scaling Attention to Very Long Sequences in Linear Time "
    "with Wavelet-Enhanced Random Spectral Attention (WERSA)",
    arxiv="2507.08637",
    repository="vincenzodentamaro/wersa",
    licence="no code published",
    kind=("attention",),
    rooms=("attention/wersa.py",),
    reached_by=('create_attention("wersa")',),
    model="harken.attention.wersa:WersaAttention",
    status="partial",
    missing="the authors' own form, of which nothing is published (an independent one is matched); a runnable claim",
    replay=replay,
)
