"""Graphs of trials or electrodes in the plane: curvature of their edges, and what the Ricci flow did to them."""

from __future__ import annotations

import os

import numpy as np

from harken.data.brain import Trials
from harken.figures import new_figure, save_figure
from harken.models.brain._ricci import ricci_curvature
from harken.models.brain._trial_graph import TrialGraph
from harken.models.brain.geometric import Geometry, spectra
from harken.models.brain.geometric_classifier import GeometricClassifier


def draw_geometry(classifier: GeometricClassifier, trials: Trials, path: str | os.PathLike[str]) -> None:
    """The graph that a classifier would make of all trials (with electrodes as nodes: of the first), and its flow.

    Raises:
        InputError: no graph can be made of them.
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    options = classifier._geometry()
    options["dimensions"] = max(2, options["dimensions"])
    of_trials = classifier.nodes == "trials"
    if of_trials:
        geometry = TrialGraph.of(classifier._features(trials.x), "both", **options).geometry
    else:
        options["neighbours"] = min(options["neighbours"], trials.x.shape[1] - 1)
        options["dimensions"] = min(options["dimensions"], trials.x.shape[1] - 1)
        geometry = Geometry.of(spectra(trials.x[0]), **options)
    figure = new_figure(10.5, 4.6)
    plane, flow = figure.subplots(1, 2, width_ratios=[1.25, 1])
    at = geometry.eigenmap.coordinates[:, :2]
    before = ricci_curvature(geometry.edges, geometry.length, len(at), laziness=classifier.laziness)
    from matplotlib.collections import LineCollection

    most = max(1e-6, float(np.quantile(np.abs(before), 0.97)))  # a few bridges would wash out the rest
    lines = LineCollection(at[geometry.edges], array=before, cmap="coolwarm_r", clim=(-most, most), linewidths=0.7)
    plane.add_collection(lines)
    if of_trials:
        for label, name in enumerate(trials.classes):
            chosen = at[trials.y == label]
            plane.scatter(*chosen.T, s=14, label=name, zorder=3, edgecolor="white", linewidth=0.3)
        plane.legend(fontsize=8, loc="best")
    else:
        plane.scatter(*at.T, s=40, color="#30506a", zorder=3)
        for name, (x, y) in zip(trials.ch_names, at, strict=True):
            plane.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
    plane.autoscale()
    plane.set(
        xlabel="eigenmap 1", ylabel="eigenmap 2", title="trials" if of_trials else "electrodes of the first trial"
    )
    plane.title.set_size(10)
    figure.colorbar(lines, ax=plane, label="Ollivier-Ricci curvature", fraction=0.04)
    if geometry.flow is None:
        flow.hist(before, bins=40, color="#30506a")
        flow.set(xlabel="curvature", ylabel="edges", title="no flow")
    else:
        change = geometry.flow.length / np.maximum(geometry.length * len(before) / geometry.length.sum(), 1e-12)
        drawn = change > 0
        dots = {"s": 7, "alpha": 0.5, "linewidth": 0}
        if of_trials:
            same = trials.y[geometry.edges[:, 0]] == trials.y[geometry.edges[:, 1]]
            for chosen, name, colour in ((same, "one class", "#30506a"), (~same, "two classes", "#d07a2c")):
                flow.scatter(before[chosen & drawn], change[chosen & drawn], color=colour, label=name, **dots)
            flow.legend(fontsize=8, title="edges within", title_fontsize=8)
        else:
            flow.scatter(before[drawn], change[drawn], color="#30506a", **{**dots, "s": 20})
        flow.set_yscale("log")
        flow.axhline(1, color="#888888", linewidth=0.8)
        flow.set(xlabel="curvature before", ylabel="length after the flow / before", title="Ricci flow")
    flow.title.set_size(10)
    save_figure(figure, path)
