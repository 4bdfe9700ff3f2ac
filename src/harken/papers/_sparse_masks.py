"""Sparsifiner's two-stage training on digits, and the masks it must beat: random, local, and the oracle's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention import Cost, ProjectedAttention
from harken.attention.softmax import softmax_weights
from harken.models.see.vit import ViT, ViTConfig
from harken.observation import observe
from harken.papers._trials import Trials
from harken.papers._vision import Digits, judged
from harken.tasks.small_training import Budget, fit

Rule = Literal["random", "local", "oracle"]
RULES: tuple[Rule, ...] = ("random", "local", "oracle")


class MaskedAttention(ProjectedAttention):
    """Softmax attention on the same number of keys a query as Sparsifiner, chosen by a rule that learns nothing.

    The class token, which comes first, attends to all, as Sparsifiner's does.

    Args:
        dim, heads: as ever.
        keep: share of the keys that each query attends to, rounded up.
        rule: ``"random"``: drawn once for each head and query; ``"local"``: the class token and the nearest patches;
            ``"oracle"``: those of the largest weight in full attention.
        side: patches along a side of the image.
        seed: of the random choice.
    """

    name: ClassVar[str] = "masked"

    def __init__(self, dim: int, heads: int, *, keep: float, rule: Rule, side: int, seed: int):
        super().__init__(dim, heads)
        tokens = side**2 + 1
        self.kept = math.ceil(keep * tokens)
        scores = torch.rand(heads, tokens, tokens, generator=torch.Generator().manual_seed(seed))
        if rule == "local":
            at = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float()
            scores = F.pad(-torch.cdist(at, at), (1, 0, 1, 0), value=1.0).expand(heads, -1, -1)
        self.scores: Tensor | None
        self.register_buffer("scores", None if rule == "oracle" else scores.contiguous(), persistent=False)

    def allowed(self, q: Tensor, k: Tensor) -> Tensor:
        """Which pairs meet, ``(batch or 1, heads, time, time)``."""
        with torch.no_grad():
            scores = q @ k.transpose(-1, -2) if self.scores is None else self.scores[None]
            chosen = torch.zeros_like(scores, dtype=torch.bool)
            chosen.scatter_(-1, scores.topk(self.kept).indices, True)
            chosen[:, :, 0] = True
            return chosen

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.allowed(q, k))

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return softmax_weights(q, k, self.allowed(q, k))

    def mix_cost(self, batch: int, time: int) -> Cost:
        return Cost(flops=4 * batch * time * self.dim * time, bytes=0)


class SparseStudy:
    """One seed's dense teacher, and the sparse students that start from it.

    Args:
        digits: to train and judge on.
        config: of the dense model.
        dense, predictor, student: budgets of the teacher, of stage 1 (the predictor alone learns to tell the teacher's
            attention) and of stage 2 (all else learns, from labels and teacher).
        rank: of the predictor's basis.
        seed: of weights and batches.
    """

    def __init__(
        self,
        digits: Digits,
        config: ViTConfig,
        dense: Budget,
        predictor: Budget,
        student: Budget,
        *,
        rank: int,
        seed: int,
    ):
        self.digits, self.config, self.rank, self.seed = digits, config, rank, seed
        self.budgets = (dense, predictor, student)

    def run(
        self, keeps: tuple[float, ...], accuracy: Trials, tuned: Trials, told: Callable[[float, str], None]
    ) -> None:
        """Train all, and add what they reach before (``accuracy``) and after (``tuned``) the second stage."""
        dense, predictor, student = self.budgets
        torch.manual_seed(self.seed)
        teacher = ViT(self.config)
        fit(teacher, self.digits, dense, self.seed, on_step=lambda step, _: told(0.4 * step / dense.steps, "dense"))
        teacher.eval().requires_grad_(False)
        accuracy.values.setdefault("dense", []).append(judged(teacher, self.digits.held_out).accuracy)
        guessing = self._sparsifier(teacher, 1.0, stage="reconstruct")
        for name, parameter in guessing.named_parameters():
            parameter.requires_grad_(".predictor." in name)
        fit(guessing, self.digits, predictor, self.seed, loss=_reconstruction)
        students: dict[str, Callable[[], ViT]] = {"dense": partial(ViT.from_dense, teacher, self.config)}
        for keep in keeps:
            students[f"learned_{keep:.0%}"] = partial(self._student, guessing, keep)
            for rule in RULES:
                students[f"{rule}_{keep:.0%}"] = partial(self._masked, teacher, keep, rule)
        loss = partial(_distillation, teacher)
        for number, (name, build) in enumerate(students.items()):
            model = build()
            if name != "dense":
                accuracy.values.setdefault(name, []).append(judged(model, self.digits.held_out).accuracy)
            fit(model, self.digits, student, self.seed + 1000, loss=loss)
            tuned.values.setdefault(name, []).append(judged(model, self.digits.held_out).accuracy)
            told(0.4 + 0.6 * (number + 1) / len(students), name)

    def _sparsifier(self, dense: ViT, keep: float, stage: str) -> ViT:
        from dataclasses import replace

        options = f"keep={keep},rank={self.rank},coefficients=8,stage={stage}"
        return ViT.from_dense(dense, replace(self.config, attention=(f"sparsifiner:{options}",)))

    def _student(self, guessing: ViT, keep: float) -> ViT:
        model = self._sparsifier(guessing, keep, stage="sparse")
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".predictor." not in name)
        return model

    def _masked(self, dense: ViT, keep: float, rule: Rule) -> ViT:
        model = ViT.from_dense(dense, self.config)
        block: Any
        for layer, block in enumerate(model.blocks):
            masked = MaskedAttention(
                self.config.dim, self.config.heads, keep=keep, rule=rule, side=model.side, seed=97 * self.seed + layer
            )
            masked.load_state_dict(block.attention.state_dict())
            block.attention = masked
        return model


def _reconstruction(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """What the layers emit: the sum of squares between their guesses and their own attention."""
    with observe(model, "loss") as seen:
        model(inputs)
    return torch.as_tensor(seen.total("loss"))


def _distillation(teacher: ViT, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, the teacher's logits and its last patches, weighted as in the released configuration."""
    student: Any = model
    with torch.no_grad():
        shown = teacher.encode(inputs)
        told = teacher.head(shown.summary).log_softmax(-1)
    made = student.encode(inputs)
    logits = student.head(made.summary)
    imitated = F.kl_div(logits.log_softmax(-1), told, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits, targets) + 0.5 * imitated + 0.5 * F.mse_loss(made.patches, shown.patches)
