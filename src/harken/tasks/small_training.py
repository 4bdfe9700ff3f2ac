"""The training that comparisons and claims share: a small model on a small task, within a budget, from a seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.data.attention_tasks import HELD_OUT, IGNORED, AttentionTask
from harken.errors import InputError
from harken.hardware.clock import processor_clock
from harken.observation import observe

WARM_UP = 3  # steps that are not timed

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """What every candidate is given alike.

    Attributes:
        steps, batch: optimiser steps, and sequences a step.
        lr: highest learning rate (AdamW, cosine to zero after a tenth of rising).
    """

    steps: int
    batch: int
    lr: float = 2e-3

    def __post_init__(self) -> None:
        if min(self.steps, self.batch) < 1 or not self.lr > 0:
            raise InputError("steps, batch and lr must be positive")


def fit(
    model: nn.Module,
    task: AttentionTask,
    budget: Budget,
    seed: int,
    *,
    options: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> float:
    """Train on batches that follow from the seed alone, so that candidates see the same data; sequences a second.

    With one thread, the seconds are the processor's (:func:`harken.hardware.clock.processor_clock`).

    Args:
        model: called as ``model(inputs, **options)``; what requires a gradient is trained.
        task: where the batches come from.
        budget: how long and how fast.
        seed: of the data. The weights are the caller's.
        options: for every call of the model, such as ``grid``.
        loss: ``loss(model, inputs, targets)`` in place of cross-entropy and what the model emits as ``"loss"``.
        on_step: called as ``on_step(step, loss)``.
    """
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=budget.lr, betas=(0.9, 0.95))
    first, started, clock = min(WARM_UP, budget.steps - 1), 0.0, processor_clock()
    model.train()
    for step in range(budget.steps):
        if step == first:
            started = clock()
        inputs, targets = task.batch(np.random.default_rng((seed, step)), budget.batch)
        for group in optimizer.param_groups:
            group["lr"] = budget.lr * _schedule(step / budget.steps)
        value = loss(model, inputs, targets) if loss else _cross_entropy(model, inputs, targets, options or {})
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if on_step:
            on_step(step, float(value.detach()))
    return (budget.steps - first) * budget.batch / (clock() - started)


@torch.inference_mode()
def judge(model: nn.Module, task: AttentionTask, batch: int, *, options: Mapping[str, Any] | None = None) -> float:
    """Accuracy, or bits, over held-out sequences, which are the same for every candidate."""
    model.eval()
    total = count = 0.0
    for number in range(math.ceil(HELD_OUT / batch)):
        inputs, targets = task.batch(np.random.default_rng((10_000, number)), batch, held_out=True)
        logits, targets = model(inputs, **(options or {})).flatten(0, -2), targets.flatten()
        counted = targets != IGNORED
        if task.quality == "accuracy":
            total += float((logits.argmax(-1) == targets)[counted].sum())
        else:
            total += float(F.cross_entropy(logits, targets, reduction="sum", ignore_index=IGNORED)) / math.log(2)
        count += int(counted.sum())
    return total / count


def _cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor, options: Mapping[str, Any]) -> Tensor:
    with observe(model, "loss") as seen:
        logits = model(inputs, **options)
    return F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORED) + seen.total("loss")


def _schedule(progress: float) -> float:
    return min(1.0, progress / 0.1 + 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
