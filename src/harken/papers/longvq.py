"""LongVQ: gated attention over a structured memory, with keys from a codebook (arXiv 2404.11163)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The moving averages, the gated unit, attention over codewords in linear time, and one codebook update."""
    import torch

    from harken.attention.longvq import (
        DampedAverage,
        codewords,
        commitment_loss,
        longvq_attention,
        nearest_codes,
        update_codebook,
    )
    from harken.models.write.longvq import LongVqBlock
    from harken.papers.parity import load_case

    case = load_case(case_dir)

    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(name): w for key, w in case.weights.items() if key.startswith(name)}

    outputs: dict[str, Tensor] = {}
    with torch.inference_mode():
        for name in ("ema_uni", "ema_bi"):
            average = DampedAverage.from_authors(part(f"{name}."), bidirectional=name == "ema_bi")
            y, state = average(case.io[f"{name}.x"].transpose(0, 1))
            outputs[f"{name}.y"] = y.transpose(0, 1)
            if name == "ema_uni":
                outputs["ema_uni.state_after_T"] = state
        block = LongVqBlock.from_authors(part("mega.")).eval()
        x = case.io["mega_causal.x"].transpose(0, 1)
        outputs["mega_causal.y"] = block(x).transpose(0, 1)
        outputs["mega_causal.attn"] = block.attention.weights(block.norm(x))

        q, k, v = (case.io[f"vq.{name}"].unsqueeze(1) for name in "qkv")
        codebook, bias = case.io["vq.codebook"][None], case.io["vq.local_bias"]
        for order in ("causal", "bi"):
            mixed = longvq_attention(q, k, v, codebook, bias, causal=order == "causal")
            outputs[f"vq_{order}.o"] = mixed.squeeze(1)
        codes = nearest_codes(k, codebook)
        quantized = codewords(codes, codebook)
        counts = case.io["vq.count_before"][None]
        sums, counts = update_codebook(codebook * counts[..., None], counts, k, codes, decay=case.config["gamma"])
        outputs |= {
            "vq.codes": codes.squeeze(1),
            "vq.k_hat": quantized.squeeze(1),
            "vq.commit_loss": commitment_loss(k, quantized)[None],
            "vq.codebook_after": (sums / counts[..., None]).squeeze(0),
            "vq.count_after": counts.squeeze(0),
        }
    return outputs


PAPER = Paper(
    slug="longvq",
    title="LongVQ: Long Sequence Modeling with Vector Quantization on Structured Memory",
    arxiv="2404.11163",
    repository=None,
    licence="no code published",
    kind=("attention", "model"),
    rooms=("attention/longvq.py", "models/write/longvq.py"),
    reached_by=('create_attention("longvq")',),
    model="harken.attention.longvq:LongVqAttention",
    status="partial",
    missing=(
        "rebuilt from the abstract and its ancestors MEGA and Transformer-VQ, since the authors published no code; "
        "its claim has not been run"
    ),
    replay=replay,
    related=("2209.10655", "2309.16354"),
)
