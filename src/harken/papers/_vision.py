"""The ground of the vision claims: handwritten digits, alike for all candidates, judged on writers never seen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harken.data.attention_tasks import AttentionTask
from harken.data.digits import SIDE, LabelledImages, read_digits
from harken.papers._trials import Trials
from harken.tasks.small_training import Budget, fit

if TYPE_CHECKING:
    from harken.papers._record import Progress
    from harken.tasks.small_training import Loss

DATA = "scikit-learn's 1,797 digits; judged on all of the last 300, by writers not trained on"


class Digits(AttentionTask):
    """Batches of digits as images ``(batch, 1, side, side)``."""

    name = "digits"
    about = "handwritten digits (accuracy)"
    causal = False
    classes = 10
    channels = 1

    def __init__(self, side: int = SIDE):
        super().__init__(side * side)
        self.grid = (side, side)
        self.train, self.held_out = read_digits(side)

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Digits drawn with ``rng``."""
        part: LabelledImages = self.held_out if held_out else self.train
        index = torch.from_numpy(rng.integers(len(part.labels), size=size))
        return part.images[index], part.labels[index]


class Judged(NamedTuple):
    """Accuracy and mean cross-entropy in nats over all held-out digits."""

    accuracy: float
    nats: float


class VisionTrials(NamedTuple):
    """What the candidates reached, by accuracy and by cross-entropy, and the trained models, seed by seed."""

    accuracy: Trials
    nats: Trials
    models: dict[str, list[nn.Module]]


@torch.inference_mode()
def judged(model: nn.Module, images: LabelledImages) -> Judged:
    """Every image once."""
    model.eval()
    logits = torch.cat([model(part) for part in images.images.split(100)])
    accuracy = (logits.argmax(-1) == images.labels).float().mean()
    return Judged(float(accuracy), float(F.cross_entropy(logits, images.labels)))


def train_candidates(
    candidates: Mapping[str, Callable[[], nn.Module]],
    digits: Digits,
    budget: Budget,
    seeds: Sequence[int],
    progress: Progress,
    *,
    losses: Mapping[str, Loss] | None = None,
) -> VisionTrials:
    """Train every candidate from every seed on the same batches, and judge it on all held-out digits."""
    accuracy, nats = Trials("accuracy"), Trials("cross_entropy_nats")
    models: dict[str, list[nn.Module]] = {}
    count = len(candidates) * len(seeds) * budget.steps
    for number, (seed, name) in enumerate((seed, name) for seed in seeds for name in candidates):
        torch.manual_seed(seed)
        model = candidates[name]()
        started = time.process_time()

        def told(step: int, loss: float, number: int = number, name: str = name, seed: int = seed) -> None:
            if step % 10 == 0:
                progress((number * budget.steps + step) / count, f"{name}, seed {seed}: step {step}, loss {loss:.3f}")

        fit(model, digits, budget, seed, loss=(losses or {}).get(name), on_step=told)
        found = judged(model, digits.held_out)
        for trials, value in ((accuracy, found.accuracy), (nats, found.nats)):
            trials.values.setdefault(name, []).append(value)
            trials.parameters[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
            trials.seconds[name] = trials.seconds.get(name, 0.0) + time.process_time() - started
        models.setdefault(name, []).append(model.eval())
    return VisionTrials(accuracy, nats, models)
