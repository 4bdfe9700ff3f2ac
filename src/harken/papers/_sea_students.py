"""What the claim of SEA compares it with, and how students learn from a softmax teacher (arXiv 2310.01777)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.attention._base import Capabilities, Cost, ProjectedAttention, precise
from harken.attention._chunked import Kernel, kernel_attention, kernel_weights
from harken.attention._sea_estimate import orthogonal_features
from harken.attention.sea import Lesson, SeaAttention
from harken.attention.softmax import softmax_weights
from harken.observation import observe


class PerformerAttention(ProjectedAttention):
    """Performer's kernel attention in place of softmax: ``relu(P x / head_dim ** 1/4) + 1e-3`` (arXiv 2009.14794).

    Those are the features that SEA's own causal estimator uses.
    """

    name: ClassVar[str] = "performer"
    capabilities: ClassVar[Capabilities] = Capabilities(step=False, cross=False)
    projection: Tensor

    def __init__(self, dim: int, heads: int, *, causal: bool = True, seed: int = 0):
        super().__init__(dim, heads, causal=causal)
        features = max(1, int(self.head_dim * math.log(self.head_dim)))
        self.register_buffer("projection", orthogonal_features(features, self.head_dim, seed))
        self._kernel = Kernel(self._features, self._features, lambda mixed, total: mixed / (total + 1e-6))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return kernel_attention(self._kernel, q, k, v, causal=self.causal, mask=mask, chunk_size=64)

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        return kernel_weights(self._kernel, q, k, causal=self.causal, mask=mask)

    def mix_cost(self, batch: int, time: int) -> Cost:
        return Cost(4 * batch * self.heads * time * self.projection.shape[0] * (self.head_dim + 1), 0)

    def _features(self, x: Tensor) -> Tensor:
        return (precise(x) * self.head_dim**-0.25 @ self.projection.T).relu() + 1e-3


class TopKeysAttention(ProjectedAttention):
    """Softmax over the ``keys`` largest scores of each query: what a perfect choice of keys would give."""

    name: ClassVar[str] = "top-keys"
    capabilities: ClassVar[Capabilities] = Capabilities(step=False, cross=False, bidirectional=False)

    def __init__(self, dim: int, heads: int, *, causal: bool = True, keys: int):
        super().__init__(dim, heads, causal=causal)
        self.keys = keys

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        return self.mix_weights(q, k, mask) @ v

    def mix_weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        time = q.shape[2]
        past = torch.ones(time, time, dtype=torch.bool, device=q.device).tril()[None, None]
        scores = (q @ k.mT).masked_fill(~past, -math.inf)
        least = scores.topk(min(self.keys, time), -1).values[..., -1:]
        return softmax_weights(q, k, past & (scores >= least))

    def mix_cost(self, batch: int, time: int) -> Cost:
        return Cost(4 * batch * time * time * self.dim, 0)


class Inside(NamedTuple):
    """What a pass through a decoder left: each attention layer's input, and each block's output."""

    inputs: list[Tensor]
    hidden: list[Tensor]


@contextmanager
def watched(model: Any) -> Iterator[Inside]:
    """Collect :class:`Inside` while the model is called."""
    inside = Inside([], [])
    handles = []
    for block in model.blocks:
        handles.append(block.attention.register_forward_pre_hook(lambda _, given: inside.inputs.append(given[0])))
        handles.append(block.register_forward_hook(lambda _module, _given, made: inside.hidden.append(made)))
    try:
        yield inside
    finally:
        for handle in handles:
            handle.remove()


class Distillation:
    """The loss of a student: ``5 MSE`` of hidden states, ``KL / 5`` of logits, a tenth of the task's, and SEA's own.

    Those are the weights of the released OPT recipe; SEA's own is the mean over layers of what its layers emit when
    they are given the teacher's scores and mixed values. Called as ``loss(student, inputs, targets)``.
    """

    def __init__(self, teacher: nn.Module):
        self.teacher: Any = teacher.eval().requires_grad_(False)

    def __call__(self, student: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad(), watched(self.teacher) as known:
            wanted = self.teacher(inputs)
            for mine, theirs, x in zip(student.blocks, self.teacher.blocks, known.inputs, strict=True):
                if isinstance(mine.attention, SeaAttention):
                    mine.attention.lesson = _lesson(theirs.attention, x)
        with watched(student) as found, observe(student, "loss") as seen:
            logits = student(inputs)
        pairs = zip(found.hidden, known.hidden, strict=True)
        hidden = torch.stack([F.mse_loss(mine, theirs) for mine, theirs in pairs]).mean()
        log, log_wanted = (x.flatten(0, 1).log_softmax(-1) for x in (logits, wanted))
        divergence = F.kl_div(log, log_wanted, reduction="batchmean", log_target=True)
        task = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        return seen.total("loss") / len(student.blocks) + 5 * hidden + 0.2 * divergence + 0.1 * task


def _lesson(attention: ProjectedAttention, x: Tensor) -> Lesson:
    q, k, v = attention.project(x)
    context = attention.mix(q, k, v, None).transpose(1, 2).flatten(2)
    return Lesson(q @ k.mT * attention.head_dim**-0.5, context)
