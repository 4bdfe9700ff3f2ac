"""Lightning Attention-2: tiles that keep causal linear attention linear, forward and backward (arXiv 2401.04658)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from harken.papers._language import Language
from harken.papers._record import Claim, Evidence, Paper, Progress, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    Op = Callable[[Tensor, Tensor, Tensor], Tensor]

LANGUAGE = Language(length=256, steps=100)
LOSS_RULE = (
    "holds: the losses of every training step, and that on held-out files, differ by at most the paper's 0.001; "
    "holds in direction: the held-out ones by at most 0.01; fails here: by more"
)
FLAT = 1.25  # longest over shortest time per position that still counts as the same
TIME_RULE = (
    f"holds: CPU time per position differs by a factor of at most {FLAT} from 1,024 to 65,536 positions, forward and "
    "with backward, while that of both quadratic forms at least doubles from their shortest to their longest, as the "
    "paper's do; holds in direction: tiles grow slower than both, by less than half as much; fails here: they grow as "
    "fast as one of them"
)


def replay(case_dir: Path) -> dict[str, Tensor]:
    """The tiled sum with and without decay, its gradients and last state; the example layer; the norm; the slopes."""
    import torch

    from harken.attention._decayed import decayed_attention
    from harken.attention.lightning import LightningAttention, head_slopes
    from harken.layers.transformer import make_norm
    from harken.papers.parity import load_case

    case = load_case(case_dir)
    io, outputs = case.io, {}
    for kind in ("decay", "nodecay"):
        if f"{kind}.q" not in io:
            continue
        q, k, v = (io[f"{kind}.{name}"].clone().requires_grad_() for name in "qkv")
        slopes = io[f"{kind}.slopes"].flatten() if f"{kind}.slopes" in io else torch.zeros(q.shape[1])
        mixed, state = decayed_attention(q, k, v, slopes, chunk_size=16)  # short, so that a short case has many tiles
        outputs[f"{kind}.o"], outputs[f"{kind}.final_state"] = mixed.detach(), state.detach()
        if f"{kind}.do" in io:
            gradients = torch.autograd.grad(mixed, (q, k, v), io[f"{kind}.do"])
            outputs |= {f"{kind}.d{name}": gradient for name, gradient in zip("qkv", gradients, strict=True)}
    with torch.inference_mode():
        if "module.x" in io:
            sizes = case.config["module"]
            weights = {name.removeprefix("module."): tensor for name, tensor in case.weights.items()}
            layer = LightningAttention.from_authors(
                weights, sizes["num_heads"], layer=sizes["layer_idx"], layers=sizes["num_layers"], chunk_size=16
            )
            outputs["module.y"] = layer(io["module.x"])
        if "srms.x" in io:
            outputs["srms.y"] = make_norm("simple-rms", io["srms.x"].shape[-1])(io["srms.x"])
    for name, saved in io.items():
        if name.startswith("slopes_"):
            outputs[name] = head_slopes(len(saved))
    return outputs


def equal_loss(seed: int, quick: bool, progress: Progress) -> Evidence:
    """Train a TransNormerLLM with the tiled sum and with the whole matrix from the same weights on the same batches.

    A third training, with the whole matrix from weights that differ in their last bit, tells what rounding alone does.
    """
    import math

    import torch

    from harken.models.write.transnormer import TransNormer, TransNormerConfig
    from harken.tasks.small_training import fit, judge

    language = LANGUAGE.for_run(quick)
    task = language.make_task()
    losses: dict[str, list[float]] = {}
    held_out: dict[str, float] = {}
    tile = language.length // 8
    forms = {"tiled": tile, "dense": language.length, "dense_rounded": language.length}
    for number, (name, chunk_size) in enumerate(forms.items()):
        torch.manual_seed(seed)
        model = TransNormer(
            TransNormerConfig(
                vocabulary=task.vocabulary,
                dim=language.dim,
                layers=language.layers,
                heads=language.heads,
                glu_dim=2 * language.dim,
                tied=True,
                scaled_embedding=False,
                chunk_size=chunk_size,
            )
        )
        if name == "dense_rounded":
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(1 + 2**-24 * torch.randn_like(parameter))
        seen = losses[name] = []

        def told(step: int, loss: float, seen: list[float] = seen, number: int = number, name: str = name) -> None:
            seen.append(loss)
            progress((number + (step + 1) / language.steps) / len(forms), f"{name}: step {step}, loss {loss:.3f}")

        fit(model, task, language.budget, seed, on_step=told)
        held_out[name] = judge(model, task, language.batch) * math.log(2)
    furthest, rounded = (
        max(abs(a - b) for a, b in zip(losses[name], losses["dense"], strict=True))
        for name in ("tiled", "dense_rounded")
    )
    apart, rounded_apart = (abs(held_out[name] - held_out["dense"]) for name in ("tiled", "dense_rounded"))
    verdict: Verdict = "fails here"
    if apart <= 0.01:
        verdict = "holds" if max(furthest, apart) <= 0.001 else "holds in direction"
    return Evidence(
        measured={
            "held_out_loss_tiled_nats": held_out["tiled"],
            "held_out_loss_difference_nats": apart,
            "largest_training_loss_difference_nats": furthest,
        },
        baseline={
            "held_out_loss_dense_nats": held_out["dense"],
            "held_out_loss_difference_dense_rounded_nats": rounded_apart,
            "largest_training_loss_difference_dense_rounded_nats": rounded,
        },
        verdict=verdict,
        summary=(
            f"After {language.steps} equal steps of a small TransNormerLLM the held-out loss is "
            f"{held_out['tiled']:.4f} in tiles of {tile} and {held_out['dense']:.4f} with the whole matrix; on the way "
            f"the training losses were never further apart than {furthest:.1e}. The whole matrix from weights that "
            f"differ in their last bit ends up {rounded_apart:.4f} ({rounded:.1e}) apart."
        ),
        settings=language.settings([seed], LOSS_RULE, tile=tile, glu_dim=2 * language.dim),
    )


def flat_time(seed: int, quick: bool, progress: Progress) -> Evidence:
    """CPU time per position of one causal mixing on one thread: tiles, left products everywhere, and fused softmax.

    Left products everywhere are Lightning Attention-1: rows of the matrix, a tile of queries at a time. The quadratic
    forms stop where a call takes many seconds. What a pass keeps for its backward pass is counted, not sampled.
    """
    import torch
    import torch.nn.functional as F

    from harken.attention.lightning import head_slopes, lightning_attention
    from harken.hardware.attention_bench import interleaved
    from harken.hardware.clock import one_thread

    heads, head_dim = (2, 8) if quick else (2, 64)
    lengths = [64, 128, 256, 512] if quick else [1024, 4096, 8192, 16384, 65536]
    longest = {"tiled": lengths[-1], "left_products": lengths[2], "softmax": lengths[3]}
    slopes = head_slopes(heads)
    ops: dict[str, Op] = {
        "tiled": lambda q, k, v: lightning_attention(q, k, v, slopes, causal=True),
        "left_products": lambda q, k, v: left_products(q, k, v, slopes),
        "softmax": lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    generator = torch.Generator().manual_seed(seed)
    seconds: dict[str, dict[tuple[str, int], float]] = {"forward": {}, "train": {}}
    kept: dict[tuple[str, int], float] = {}
    with one_thread():
        for number, (length, mode) in enumerate(product(lengths, seconds)):
            progress(number / len(lengths) / 2, f"{mode}, {length:,} positions")
            q, k, v = (torch.randn(1, heads, length, head_dim, generator=generator) for _ in range(3))
            able = [name for name in ops if length <= longest[name]]
            calls = {(name, length): _call(ops[name], q, k, v, mode) for name in able}
            seconds[mode] |= interleaved(calls, rounds=1 if quick else 5, longest=1.0)
            if mode == "train":
                kept |= {(name, length): _kept(ops[name], q, k, v) / length for name in able}
    progress(1.0, "done")
    growth = {name: [_growth(seconds[mode], name) for mode in seconds] for name in ops}
    kept_growth = {name: _growth(kept, name, per_position=True) for name in ops}
    ratios = {
        f"times_faster_than_{other}_{mode}_at_{longest[other]}": (
            times[(other, longest[other])] / times[("tiled", longest[other])]
        )
        for mode, times in seconds.items()
        for other in ("left_products", "softmax")
    }
    return Evidence(
        measured={
            "time_per_position_growth_forward": growth["tiled"][0],
            "time_per_position_growth_train": growth["tiled"][1],
            "kept_for_backward_bytes_per_position_growth": kept_growth["tiled"],
            **ratios,
        },
        baseline={
            f"{what}_growth_{name}": value
            for name in ("left_products", "softmax")
            for what, value in (
                ("time_per_position_forward", growth[name][0]),
                ("time_per_position_train", growth[name][1]),
                ("kept_for_backward_bytes_per_position", kept_growth[name]),
            )
        },
        verdict=judge_growth(growth),
        summary=(
            f"From {lengths[0]:,} to {lengths[-1]:,} positions the largest CPU time per position of the tiled form is "
            f"{growth['tiled'][0]:.2f} times the smallest ({growth['tiled'][1]:.2f} with backward); that of left "
            f"products everywhere grows {growth['left_products'][0]:.1f} ({growth['left_products'][1]:.1f}) times up "
            f"to {longest['left_products']:,} positions, of fused softmax {growth['softmax'][0]:.1f} "
            f"({growth['softmax'][1]:.1f}) times up to {longest['softmax']:,}."
        ),
        settings={
            "lengths": lengths,
            "longest": longest,
            "heads": heads,
            "head_dim": head_dim,
            "batch": 1,
            "tile": 64,
            "threads": 1,
            "clock": "CPU time of the process, calls in turns, medians; once where a call takes more than a second",
            "seeds": [seed],
            "microseconds_per_position": {
                mode: {f"{name}_{length}": round(1e6 * s / length, 3) for (name, length), s in times.items()}
                for mode, times in seconds.items()
            },
            "rule": TIME_RULE,
        },
    )


def judge_growth(growth: Mapping[str, Sequence[float]]) -> Verdict:
    """By the rule in the settings, fixed before the run; ``growth`` has the factors forward and with backward."""
    tiled, others = growth["tiled"], [growth["left_products"], growth["softmax"]]
    if max(tiled) <= FLAT and all(min(other) >= 2 for other in others):
        return "holds"
    if any(a >= b for other in others for a, b in zip(tiled, other, strict=True)):
        return "fails here"
    slower = all(2 * (a - 1) <= b - 1 for other in others for a, b in zip(tiled, other, strict=True))
    return "holds in direction" if slower else "not shown here"


def left_products(q: Tensor, k: Tensor, v: Tensor, slopes: Tensor, tile: int = 256) -> Tensor:
    """``((q k^T) * decay) v`` for a tile of queries after the other and all keys before them: quadratic in length.

    The decay to keys before the tile is a product of one to its first position and one from there.
    """
    import torch

    slopes = slopes[:, None, None]
    index = torch.arange(tile)
    near = (-slopes * (index[:, None] - index).clamp_min(0)).exp().tril()
    rows = []
    for start in range(0, q.shape[2], tile):
        here = slice(start, min(start + tile, q.shape[2]))
        size = here.stop - start
        mixed = (q[:, :, here] @ k[:, :, here].transpose(-1, -2) * near[:, :size, :size]) @ v[:, :, here]
        if start:
            since = (-slopes * index[:size, None]).exp()
            until = (-slopes * (start - torch.arange(start))[:, None]).exp()
            scores = (q[:, :, here] * since) @ (k[:, :, :start] * until).transpose(-1, -2)
            mixed = mixed + scores @ v[:, :, :start]
        rows.append(mixed)
    return torch.cat(rows, 2)


def _call(op: Op, q: Tensor, k: Tensor, v: Tensor, mode: str) -> Callable[[], object]:
    import torch

    def forward() -> None:
        with torch.inference_mode():
            op(q, k, v)

    def train() -> None:
        torch.autograd.backward(op(*(part.clone().requires_grad_() for part in (q, k, v))).sum())

    return forward if mode == "forward" else train


def _kept(op: Op, q: Tensor, k: Tensor, v: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    import torch

    stored: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made = op(*(part.clone().requires_grad_() for part in (q, k, v)))
    del made
    return sum(stored.values())


def _growth(values: Mapping[tuple[str, int], float], name: str, *, per_position: bool = False) -> float:
    """The largest over the smallest value per position of all lengths."""
    found = [value / (1 if per_position else length) for (which, length), value in values.items() if which == name]
    return max(found) / min(found)


CLAIMS = (
    Claim(
        name="equal-loss",
        statement="Computed in tiles, attention with decay trains to the same loss as computed with the whole matrix.",
        source="arXiv 2401.04658, 0.4 B parameters, 100,000 updates",
        paper_value="loss 2.229 with Lightning Attention-1 (left products), 2.228 with Lightning Attention-2 (tiles)",
        run=equal_loss,
    ),
    Claim(
        name="time-per-token",
        statement="Time per token does not depend on length, in training and inference, where it grows for others.",
        source="arXiv 2401.04658, training speed on two A100 GPUs",
        paper_value=(
            "tokens per GPU and second, 0.4 B parameters, at 1,024 / 16,384 / 65,536 positions: Lightning Attention-2 "
            "38,615 / 37,755 / 38,278, Lightning Attention-1 41,789 / 21,112 / 8,247, LLaMA with FlashAttention-2 "
            "35,931 / 15,479 / 5,643"
        ),
        run=flat_time,
    ),
)

PAPER = Paper(
    slug="lightning-attention-2",
    title="Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models",
    arxiv="2401.04658",
    repository="OpenNLPLab/lightning-attention",
    licence="MIT",
    kind=("attention",),
    rooms=("attention/lightning.py",),
    reached_by=('create_attention("lightning")',),
    model="harken.attention.lightning:LightningAttention",
    status="works",
    claims=CLAIMS,
    replay=replay,
)
