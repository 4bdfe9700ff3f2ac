"""Lina-Speech: text to speech on gated linear attention, a voice held in its initial state (arXiv 2410.23320)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The first gated linear attention layer of the decoder alone, and its gates; the rest is not built yet."""
    import torch

    from harken.attention.gated_linear import GatedLinearAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    weights = case.part("attentive_rnn.encoder.0.tmix.")
    layer = GatedLinearAttention.from_authors(
        weights, case.config["heads"], temperature=float(case.config["gate_logit_normalizer"]), chunk_size=4
    )
    with torch.inference_mode():
        return {"gla_log_gate": layer.log_decay(case.io["gla_in"]), "gla_out": layer(case.io["gla_in"])}


PAPER = Paper(
    slug="lina-speech",
    title="Lina-Speech: Gated Linear Attention is a Fast and Parameter-Efficient Learner for text-to-speech synthesis",
    arxiv="2410.23320",
    repository="theodorblackbird/lina-speech",
    licence="CC BY-NC-SA 4.0",
    kind=("attention", "model"),
    rooms=("attention/gated_linear.py", "models/speak/lina_speech.py"),
    reached_by=("harken speak",),
    status="partial",
    missing="everything but its attention layer: the text encoder, the cross-attention by position, tokens, speech",
    replay=replay,
)
