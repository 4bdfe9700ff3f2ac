"""Ollivier-Ricci curvature of graphs of neighbours: ours beside GraphRicciCurvature and beside POT edge by edge.

    python benchmarks/geometry_speed.py [--save FILE]

GraphRicciCurvature (pip install GraphRicciCurvature==0.6.1 networkit python-louvain) is left out where it is not
installed. Processor time, that of its worker processes too, the median of five runs; the largest difference of the
curvatures is shown.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np

from harken.models.brain._ricci import ricci_curvature, shortest_paths
from harken.models.brain.geometric import Geometry

SIZES = ((14, 4), (60, 6), (200, 8))


def edge_by_edge(geometry: Geometry, nodes: int) -> np.ndarray:
    """Whole measures, POT's documented solver: what one would write first."""
    import ot

    distance = shortest_paths(geometry.edges, geometry.length, nodes)
    weight = np.zeros((nodes, nodes))
    for (x, y), length in zip(geometry.edges, geometry.length, strict=True):
        weight[x, y] = weight[y, x] = np.exp(-length)
    measure = 0.5 * weight / weight.sum(1, keepdims=True) + 0.5 * np.eye(nodes)
    found = []
    for x, y in geometry.edges:
        at, to = np.flatnonzero(measure[x]), np.flatnonzero(measure[y])
        found.append(1 - ot.emd2(measure[x, at], measure[y, to], distance[np.ix_(at, to)]) / distance[x, y])
    return np.array(found)


def library(geometry: Geometry, nodes: int) -> np.ndarray:
    """GraphRicciCurvature."""
    import networkx as nx
    from GraphRicciCurvature.OllivierRicci import OllivierRicci

    graph = nx.Graph()
    for (x, y), length in zip(geometry.edges.tolist(), geometry.length.tolist(), strict=True):
        graph.add_edge(x, y, weight=length)
    curvature = OllivierRicci(graph, alpha=0.5, exp_power=1, proc=1, verbose="ERROR")
    curvature.compute_ricci_curvature()
    return np.array([curvature.G[x][y]["ricciCurvature"] for x, y in geometry.edges.tolist()])


def timed(run: Callable[[], np.ndarray], repeats: int = 5) -> tuple[float, np.ndarray]:
    """Seconds of a call, and what it returned; short calls are repeated, since the clock ticks in hundredths."""
    found, times = run(), []
    for _ in range(repeats):
        start, count = sum(os.times()[:4]), 0
        while count == 0 or sum(os.times()[:4]) - start < 0.5:
            found, count = run(), count + 1
        times.append((sum(os.times()[:4]) - start) / count)
    return statistics.median(times), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--save", type=Path)
    save = parser.parse_args().save
    rows = []
    for nodes, neighbours in SIZES:
        points = np.random.default_rng(0).standard_normal((nodes, 6))
        geometry = Geometry.of(points, neighbours=neighbours, dimensions=3, iterations=0)
        ours, found = timed(lambda g=geometry, n=nodes: ricci_curvature(g.edges, g.length, n))
        row = {"nodes": nodes, "edges": len(geometry.edges), "us_per_edge": 1e6 * ours / len(geometry.edges)}
        others = {"pot_edge_by_edge": edge_by_edge, "GraphRicciCurvature": library}
        for name, other in others.items():
            try:
                theirs, same = timed(lambda g=geometry, n=nodes, other=other: other(g, n))
            except ImportError:
                continue
            row[f"{name}_over_ours"] = theirs / ours
            row[f"{name}_difference"] = float(np.abs(found - same).max())
        rows.append(row)
        print("  ".join(f"{name} {value:.3g}" for name, value in row.items()))
    if save is not None:
        save.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
