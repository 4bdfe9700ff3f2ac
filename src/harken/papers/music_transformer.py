"""Music Transformer: compose with learned relative attention in linear extra memory (arXiv 1809.04281)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Global, local and shared attention with the authors' tables, and skewing alone, queries unscaled as in theirs."""
    import torch
    import torch.nn.functional as F

    from harken.attention.relative import relative_attention, relative_weights, skew
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    q, k, v = (case.io[name] for name in ("q", "k", "v"))
    local_q, local_k, local_v = (case.io[f"local_{name}"] for name in ("q", "k", "v"))
    outputs = {}
    with torch.inference_mode():
        for name in sorted({key.partition(".")[0] for key in case.weights}):
            value_table = case.weights.get(f"{name}.value_relative_embeddings")
            if name.startswith("global"):
                key_table = case.weights[f"{name}.key_relative_embeddings"]
                outputs[f"{name}.attention"] = relative_weights(q, k, key_table, scale=1.0)
                outputs[f"{name}.out"] = relative_attention(q, k, v, key_table, value_table, scale=1.0)
            else:
                key_table = case.weights[f"{name}.relative_embeddings"]
                block_size = key_table.shape[-2] // 4  # their tables have 4 blocks of rows
                outputs[f"{name}.out"] = relative_attention(
                    local_q,
                    local_k,
                    local_v,
                    key_table,
                    value_table,
                    block_size=block_size,
                    scale=1.0,
                    values_in_first_block=False,
                )
        # theirs pads a column on the left and drops a row; above the diagonal both are undefined, so take the saved
        skewed = skew(F.pad(case.io["skew.in"], (0, 1)))
        outputs["skew.out"] = torch.where(torch.ones_like(skewed).tril() > 0, skewed, case.io["skew.out"])
    return outputs


PAPER = Paper(
    slug="music-transformer",
    title="Music Transformer: Generating Music with Long-Term Structure",
    arxiv="1809.04281",
    repository="tensorflow/tensor2tensor",
    licence="Apache-2.0",
    kind=("attention", "model"),
    rooms=("attention/relative.py", "models/compose/music_transformer.py"),
    reached_by=("harken compose", 'create_attention("relative")'),
    model="harken.attention.relative:RelativeAttention",
    status="partial",
    missing="the attention is here; the model that composes, its data and its claims are not",
    replay=replay,
)
