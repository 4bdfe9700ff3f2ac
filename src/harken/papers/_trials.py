"""Candidates trained alike from several seeds, and what may be said of their differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import nn

    from harken.data.attention_tasks import AttentionTask
    from harken.papers._record import Progress
    from harken.tasks.small_training import Budget, Loss

Finding = Literal["better", "worse", "unclear"]

_HIGHER_IS_BETTER = ("accuracy", "estoi", "pesq_wb", "si_sdr")


@dataclass
class Trials:
    """What each candidate reached, seed by seed.

    Attributes:
        quality: its name, ``"accuracy"`` or ``"bits_per_byte"``.
        values: candidate -> one value a seed, in the order of the seeds.
        parameters, seconds: candidate -> how many, and how long its trainings took together.
    """

    quality: str
    values: dict[str, list[float]] = field(default_factory=dict)
    parameters: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        """Over the seeds."""
        return statistics.mean(self.values[name])

    def spread(self, name: str) -> float:
        """Standard deviation over the seeds; 0 for one."""
        return statistics.stdev(self.values[name]) if len(self.values[name]) > 1 else 0.0

    def gain(self, name: str, than: str) -> tuple[float, float]:
        """By how much a candidate is better than another, and the standard error of that, paired by the seeds."""
        sign = 1 if self.quality in _HIGHER_IS_BETTER else -1
        pairs = zip(self.values[name], self.values[than], strict=True)
        gains = [sign * (a - b) for a, b in pairs]
        error = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
        return statistics.mean(gains), error

    def finding(self, name: str, than: str, margin: float = 0.0) -> Finding:
        """Better or worse by more than a margin and by more than two standard errors; else unclear."""
        gain, error = self.gain(name, than)
        if abs(gain) <= max(margin, 2 * error):
            return "unclear"
        return "better" if gain > 0 else "worse"

    def as_measured(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """``<quality>_<candidate>`` and its ``..._spread``, for the evidence of a claim."""
        found: dict[str, float] = {}
        for name in names or list(self.values):
            found[f"{self.quality}_{name}"] = self.mean(name)
            found[f"{self.quality}_{name}_spread"] = self.spread(name)
        return found

    def text(self, name: str) -> str:
        """Mean and spread, as a sentence shows them."""
        if self.quality == "accuracy":
            return f"{100 * self.mean(name):.1f} ± {100 * self.spread(name):.1f} %"
        return f"{self.mean(name):.3f} ± {self.spread(name):.3f}"


def run_trials(
    candidates: Mapping[str, Callable[[], nn.Module]],
    task: AttentionTask,
    budget: Budget,
    seeds: Sequence[int],
    progress: Progress,
    *,
    losses: Mapping[str, Loss] | None = None,
    done: float = 0.0,
    share: float = 1.0,
) -> Trials:
    """Train every candidate from every seed on the same batches, and judge it on the same held-out ones.

    Args:
        candidates: name -> what builds the model; torch's seed is set before each call.
        task, budget: alike for all.
        seeds: of weights and data.
        progress: of the claim; told about ``done`` to ``done + share``.
        losses: name -> a loss of its own, where a candidate has one.
    """
    import time

    import torch

    from harken.tasks.small_training import fit, judge

    trials = Trials(task.quality)
    count = len(candidates) * len(seeds) * budget.steps
    for number, (name, build) in enumerate((n, b) for _ in seeds for n, b in candidates.items()):
        seed = seeds[number // len(candidates)]
        torch.manual_seed(seed)
        model = build()
        trials.parameters[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        started = time.perf_counter()

        def told(step: int, loss: float, number: int = number, name: str = name, seed: int = seed) -> None:
            if step % 10 == 0:
                steps = number * budget.steps + step
                progress(done + share * steps / count, f"{name}, seed {seed}: step {step}, loss {loss:.3f}")

        fit(model, task, budget, seed, loss=(losses or {}).get(name), on_step=told)
        trials.seconds[name] = trials.seconds.get(name, 0.0) + time.perf_counter() - started
        trials.values.setdefault(name, []).append(judge(model, task, budget.batch))
    return trials
