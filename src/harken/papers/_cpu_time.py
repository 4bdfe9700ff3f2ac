"""What a training pass costs on one core, measured so that ratios can be trusted: CPU time, in turns, medians."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor, nn

from harken.hardware.attention_bench import interleaved
from harken.hardware.clock import one_thread


def training_seconds(
    modules: Mapping[str, nn.Module],
    x: Tensor,
    rounds: int,
    told: Callable[[str], None],
    *,
    longest: float = math.inf,
) -> dict[str, float]:
    """Median CPU seconds of forward and backward of each module on one thread, the gradient of ``x`` included.

    Args:
        modules: called as ``module(x)``; the sum of what they return is differentiated.
        x: the input of all.
        rounds: measurements of each, in turns, after one that warms up.
        told: called with the name of what is measured next.
        longest: seconds; a module whose first pass takes longer is not measured again.
    """
    leaf = x.detach().clone().requires_grad_()

    def training(name: str, module: nn.Module) -> Callable[[], None]:
        def call() -> None:
            told(name)
            leaf.grad = None
            module.zero_grad(set_to_none=True)
            module(leaf).sum().backward()

        return call

    with one_thread():
        return interleaved({name: training(name, module) for name, module in modules.items()}, rounds, longest)
