"""Flow-Attention: linear attention from the conservation of flow (arXiv 2202.06258)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The authors' bidirectional and causal modules, the flows inside them included."""
    import torch
    import torch.nn.functional as F

    from harken.attention.flow import FlowForm, flow_attention, flow_conservation
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs, saved = case.config, case.io
    form = FlowForm(theirs["kernel"], theirs["clamp"] and tuple(theirs["clamp"]), theirs["eps"])
    heads = theirs["n_heads"]

    def project(part: str, x: Tensor) -> Tensor:  # theirs may change the width, which a layer of ours keeps
        return F.linear(x, case.weights[f"{part}_projection.weight"], case.weights[f"{part}_projection.bias"])

    def projected(module: str, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            project(f"{module}.{part}", x).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part, x in (("query", queries), ("key", keys), ("value", values))
        )
        return q, k, v

    def attend(module: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        q, k, v = projected(module, queries, keys, values)
        mixed = flow_attention(q, k, v, causal=module == "causal", form=form)
        return project(f"{module}.out", mixed.transpose(1, 2).flatten(2))

    with torch.inference_mode():
        x = saved["self_x"]
        q, k, _ = projected("normal", x, x, x)
        unclamped = flow_conservation(q, k, form=form._replace(clamp=None))
        q, k, _ = projected("causal", x, x, x)
        causal = flow_conservation(q, k, causal=True, form=form)
        return {
            "out_cross": attend("normal", saved["cross_queries"], saved["cross_keys"], saved["cross_values"]),
            "out_self": attend("normal", x, x, x),
            "out_causal": attend("causal", x, x, x),
            "self_conserved_source_before_clamp": unclamped.source,
            "causal_incoming": causal.incoming,
            "causal_outgoing": causal.outgoing,
            "causal_conserved_sink": causal.sink,
            "causal_conserved_source_clamped": causal.source,
            "causal_competition": causal.competition,
        }


PAPER = Paper(
    slug="flowformer",
    title="Flowformer: Linearizing Transformers with Conservation Flows",
    arxiv="2202.06258",
    repository="thuml/Flowformer",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/flow.py",),
    reached_by=('create_attention("flow")',),
    model="harken.attention.flow:FlowAttention",
    status="partial",
    missing="the authors' vision backbone; a runnable claim",
    replay=replay,
)
