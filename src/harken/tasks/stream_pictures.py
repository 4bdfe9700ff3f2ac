"""What a decoder said over time, and how fast."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from harken.figures import new_figure, save_figure
from harken.tasks.stream_brain import Decision


def draw_decisions(decisions: Sequence[Decision], classes: Sequence[str], path: str | os.PathLike[str]) -> None:
    """Probability of every class over time, stacked, above the latency of each decision.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(10, 4)
    told, took = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    time = [decision.seconds for decision in decisions]
    known = list(classes) or sorted({decision.label for decision in decisions})
    if decisions[0].probabilities:
        share = np.array([decision.probabilities for decision in decisions]).T
    else:
        share = np.array([[decision.label == name for decision in decisions] for name in known], float)
    told.stackplot(time, share, labels=known, step="post", alpha=0.85)
    told.set(ylim=(0, 1), ylabel="probability")
    told.legend(loc="upper right", fontsize=8, ncols=min(5, len(known)))
    took.plot(time, [decision.latency_ms for decision in decisions], ".", color="#30506a", markersize=3)
    took.set(xlabel="end of the window (s)", ylabel="latency (ms)", ylim=(0, None))
    told.margins(x=0)
    save_figure(figure, path)
