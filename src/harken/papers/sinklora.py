"""SinkLoRA: longer contexts by shifted local attention with sink tokens, and a pruned cache (arXiv 2406.05678)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.papers._record import Paper

if TYPE_CHECKING:
    from torch import Tensor


def replay(case_dir: Path) -> dict[str, Tensor]:
    """Shifted groups as released (wrapped), full attention with their weights, and heavy hitters step by step."""
    import torch

    from harken.attention.shifted import ShiftedAttention
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    theirs, outputs = case.config, {}
    with torch.inference_mode():
        if "s2.x" in case.io:
            x, group = case.io["s2.x"], theirs["group_size"]
            layer = ShiftedAttention.from_authors(
                _part(case.weights, "s2."),
                heads=theirs["num_heads"],
                rotary_base=float(theirs["rope_theta"]),
                causal=True,
                wrap=True,
                group_size=group,
            )
            outputs["s2.y"] = layer.train()(x)
            outputs["s2.group_weights"] = _group_weights(layer.weights(x), group, layer.shifted_heads)
            outputs["full.y"] = layer.eval()(x)
        if "h2o.x" in case.io:
            outputs |= _heavy_hitters(case.io["h2o.x"], _part(case.weights, "h2o."), theirs)
    return outputs


def _group_weights(weights: Tensor, group: int, shifted_heads: int) -> Tensor:
    """The blocks of each head's matrix, ``(batch * groups, heads, group, group)``, after its roll."""
    import torch

    straight = weights.shape[1] - shifted_heads
    rolled = weights[:, straight:].roll((-(group // 2), -(group // 2)), (2, 3))
    weights = torch.cat((weights[:, :straight], rolled), 1)
    batch, heads, time, _ = weights.shape
    blocks = weights.unflatten(3, (-1, group)).unflatten(2, (-1, group)).diagonal(dim1=2, dim2=4)
    return blocks.permute(0, 4, 1, 2, 3).reshape(batch * (time // group), heads, group, group)


def _heavy_hitters(x: Tensor, weights: dict[str, Tensor], theirs: dict[str, Any]) -> dict[str, Tensor]:
    """A prompt and single steps with the released simulation's budgets; which keys each step met, and their scores."""
    import torch

    from harken.attention.cache import HeavyHitters, attend_and_score
    from harken.attention.softmax import SoftmaxAttention

    prompt = theirs["prompt"]
    shares = {"heavy": theirs["heavy_ratio"], "recent": theirs["recent_ratio"]}
    policy = HeavyHitters.of_prompt(prompt, **shares, slack=1, probation=True)
    layer = SoftmaxAttention.from_authors(
        weights, heads=theirs["num_heads"], rotary_base=float(theirs["rope_theta"]), causal=True, cache=policy
    ).eval()
    state: Any
    y, state = layer.step(x[:, :prompt], layer.init_state(x.shape[0]))
    outputs, parts = {}, [y]
    for number, at in enumerate(range(prompt, x.shape[1])):
        before = state
        y, state = layer.step(x[:, at : at + 1], before)
        parts.append(y)
        positions, allowed = policy.met(before)
        q, k, v = layer.project(x[:, at : at + 1], start=at)
        keys, values = torch.cat((before.keys, k), 2), torch.cat((before.values, v), 2)
        _, drawn = attend_and_score(q, keys, values, allowed)
        everywhere = torch.zeros(layer.kv_heads, at + 1)
        outputs[f"h2o.keep_mask_step{number}"] = everywhere.scatter(1, positions[0], allowed[0].float())
        outputs[f"h2o.weights_step{number}"] = everywhere.scatter(1, positions[0], drawn[0])
    outputs["h2o.y"] = torch.cat(parts, 1)
    everywhere = torch.zeros(layer.kv_heads, x.shape[1])
    outputs["h2o.scores_after"] = everywhere.scatter(1, state.positions[0], state.scores[0])
    return outputs


def _part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


PAPER = Paper(
    slug="sinklora",
    title="SinkLoRA: Enhanced Efficiency and Chat Capabilities for Long-Context Large Language Models",
    arxiv="2406.05678",
    repository="Dexter-GT-86/SinkLoRA",
    licence="Apache-2.0",
    kind=("attention",),
    rooms=("attention/shifted.py", "attention/cache.py"),
    reached_by=('create_attention("sink-shifted")',),
    model="harken.attention.shifted:SinkShiftedAttention",
    status="partial",
    missing="the fine-tuning recipe (LoRA) and its claims; the authors released no code of SF-Attn to compare with",
    related=("2309.12307", "2306.14048", "2309.17453"),
    replay=replay,
)
