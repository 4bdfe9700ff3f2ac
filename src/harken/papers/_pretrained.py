"""A small language model trained once a seed, which several candidates of a claim then start from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from harken.papers._language import Language
    from harken.papers._record import Progress


def pretrain(
    build: Callable[[], nn.Module], language: Language, seed: int, progress: Progress
) -> tuple[nn.Module, float]:
    """The trained model in ``eval`` mode, and its held-out bits per byte at the length that it was trained on."""
    import torch

    from harken.tasks.small_training import fit, judge

    torch.manual_seed(seed)
    model, task = build(), language.make_task()

    def told(step: int, loss: float) -> None:
        if step % 10 == 0:
            progress(step / language.steps, f"pre-training, seed {seed}: step {step}, loss {loss:.3f}")

    fit(model, task, language.budget, seed, on_step=told)
    return model.eval(), judge(model, task, language.batch)
