"""Deconstructed attention: which of its design principles a language model needs (arXiv 2510.11602)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Every token mixer of the study on a case's inputs, and the indicators of the standard one's maps."""
    import torch

    from harken.attention.cumulative import position_scores
    from harken.attention.deconstructed import DeconstructedAttention
    from harken.attention.taylor import taylor_features
    from harken.lens.indicators import attention_indicators
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    x, heads = case.io["H"], case.config["heads"]

    def mixer(part: str, **options: Any) -> Any:
        theirs = {name.removeprefix(f"{part}."): w for name, w in case.weights.items() if name.startswith(f"{part}.")}
        return DeconstructedAttention.from_authors(theirs, heads=heads, causal=True, **options)

    with torch.inference_mode():
        standard = mixer("attn")
        indicators = attention_indicators(standard.weights(x))
        per_key = mixer("attn", variant="non-approximate")
        q, k, _ = per_key.project(x)
        outputs = {
            "standard.y": standard(x),
            "standard.A": standard.weights(x),
            "non_approx.y": per_key(x),
            "non_approx.logits": position_scores(q, k),
            "mlp.y": mixer("mlp", variant="mlp")(x),
            "approx.y": mixer("approx", variant="approximate")(case.io["approx.x"]),
            "approx.feature_map_out": taylor_features(case.io["approx.feature_map_in"]),
            "ind.entropy": indicators.entropy,
            "ind.conc": indicators.concentration,
            "ind.head_div": indicators.head_diversity,
            "ind.sink": indicators.sink,
            "ind.locfoc": indicators.local_focus,
        }
        for suffix, base in (("", None), ("_rope", float(case.config["rope_theta"]))):
            fixed = mixer("attn", variant="fixed-seq-qk", rotary_base=base)
            static = mixer("attn", variant="static-emb-qk", rotary_base=base)
            outputs[f"fixed_qk{suffix}.y"] = fixed(x, source=case.io["X_fixed"])
            outputs[f"static_emb_qk{suffix}.y"] = static(x, source=case.io["e_static"])
        outputs["standard_rope.y"] = mixer("attn", rotary_base=float(case.config["rope_theta"]))(x)
    return outputs


PAPER = Paper(
    slug="deconstructing-attention",
    title="Deconstructing Attention: Investigating Design Principles for Effective Language Modeling",
    arxiv="2510.11602",
    repository="HUIYINXUE/DeconAttn",
    licence="no code published",
    kind=("attention",),
    rooms=(
        "attention/deconstructed.py",
        "attention/taylor.py",
        "attention/cumulative.py",
        "attention/constant_maps.py",
        "lens/indicators.py",
    ),
    reached_by=('create_attention("deconstructed", variant=...)',),
    model="harken.attention.deconstructed:DeconstructedAttention",
    status="partial",
    missing="the mixers and indicators are here; the language models, their hybrids and the claims are not",
    replay=replay,
)
