"""Ollivier-Ricci curvature of a graph's edges by exact optimal transport, and the flow that evens it out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from harken.errors import InputError, MissingExtraError

try:
    from ot.lp.emd_wrap import emd_c
except ImportError:
    raise MissingExtraError("POT", extra="brain") from None

_PIVOTS = 100_000


@dataclass(frozen=True)
class RicciFlow:
    """What a flow arrived at.

    Attributes:
        length: of each edge, ``(edges,)``; they sum to the number of edges.
        curvature: of each edge at those lengths.
    """

    length: Float[np.ndarray, " edges"]
    curvature: Float[np.ndarray, " edges"]


def ricci_curvature(
    edges: Int[np.ndarray, "edges 2"],
    length: Float[np.ndarray, " edges"],
    nodes: int,
    *,
    laziness: float = 0.5,
    power: float = 1.0,
) -> Float[np.ndarray, " edges"]:
    """Curvature of every edge: ``1 - W1(m_x, m_y) / d(x, y)``.

    ``m_x`` leaves the share ``laziness`` at ``x`` and spreads the rest over its neighbours in proportion to
    ``exp(-length ** power)``; ``d`` is the length of the shortest path. Positive within clusters, negative on bridges.
    Mass that both measures have in one place stays there, which changes nothing where the cost is a metric, and makes
    the transport problems small.

    Args:
        edges: pairs of nodes, each edge once.
        length: of each edge, at least 0.
        nodes: how many there are.
        laziness: share in [0, 1).
        power: of the length in the weights.

    Raises:
        InputError: lengths or nodes out of range.
        MissingExtraError: POT or SciPy is not installed.
    """
    _check(edges, length, nodes, laziness)
    if not len(edges):
        return np.zeros(0)
    distance = shortest_paths(edges, length, nodes)
    measures = _measures(edges, length, nodes, laziness, power)
    curvature = np.zeros(len(edges))
    for number, (x, y) in enumerate(edges.tolist()):
        between = distance[x, y]
        if between > 0:  # an edge without length has no direction to be curved in
            curvature[number] = 1 - _transport(measures[x] - measures[y], distance) / between
    return curvature


def ricci_flow(
    edges: Int[np.ndarray, "edges 2"],
    length: Float[np.ndarray, " edges"],
    nodes: int,
    *,
    iterations: int = 10,
    step: float = 0.3,
    laziness: float = 0.5,
    power: float = 1.0,
) -> RicciFlow:
    """Shrink what is curved positively and stretch what is curved negatively, until curvature is even.

    Each iteration: ``length <- length * (1 - step * curvature)``, rescaled so that the lengths sum to the number of
    edges; then the curvature anew.

    Raises:
        InputError: lengths, nodes, step or iterations out of range.
    """
    if iterations < 0 or not 0 < step <= 1:
        raise InputError(f"expected iterations of at least 0 and a step in (0, 1], got {iterations} and {step}")
    length = np.asarray(length, np.float64)
    curvature = ricci_curvature(edges, length, nodes, laziness=laziness, power=power)
    for _ in range(iterations):
        length = np.maximum(length * (1 - step * curvature), 0.0)
        total = length.sum()
        length = length * (len(edges) / total) if total > 0 else np.ones(len(edges))
        curvature = ricci_curvature(edges, length, nodes, laziness=laziness, power=power)
    return RicciFlow(length, curvature)


def shortest_paths(
    edges: Int[np.ndarray, "edges 2"], length: Float[np.ndarray, " edges"], nodes: int
) -> Float[np.ndarray, "nodes nodes"]:
    """Lengths of the shortest paths between all nodes; infinite between components."""
    try:
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import shortest_path
    except ImportError:
        raise MissingExtraError("scipy", extra="brain") from None
    # SciPy takes a stored 0 for no edge
    kept = np.maximum(length, np.finfo(np.float64).tiny)
    graph = csr_array((kept, (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    return shortest_path(graph, method="D", directed=False)


def _measures(
    edges: np.ndarray, length: np.ndarray, nodes: int, laziness: float, power: float
) -> Float[np.ndarray, "nodes nodes"]:
    weights = np.zeros((nodes, nodes))
    weight = np.exp(-(length**power))
    weights[edges[:, 0], edges[:, 1]] = weight
    weights[edges[:, 1], edges[:, 0]] = weight
    total = weights.sum(1, keepdims=True)
    joined = np.zeros((nodes, nodes))
    joined[edges[:, 0], edges[:, 1]] = joined[edges[:, 1], edges[:, 0]] = 1
    # where every neighbour is so far that nothing is left of its weight they share alike
    even = joined / np.maximum(joined.sum(1, keepdims=True), 1)
    spread = np.where(total > 1e-300, weights / np.maximum(total, 1e-300), even)
    measures = (1 - laziness) * spread
    np.fill_diagonal(measures, laziness)
    return measures


def _transport(surplus: Float[np.ndarray, " nodes"], distance: Float[np.ndarray, "nodes nodes"]) -> float:
    """Least cost of carrying what is above 0 to where it is below."""
    sources, sinks = np.flatnonzero(surplus > 1e-15), np.flatnonzero(surplus < -1e-15)
    if not len(sources) or not len(sinks):
        return 0.0
    given, taken = surplus[sources], -surplus[sinks]
    cost = distance[np.ix_(sources, sinks)]
    if len(sources) == 1 or len(sinks) == 1:  # there is one way only
        return float((cost * np.minimum(given[:, None], taken)).sum())
    # POT's own solver without its checks, which cost four times what problems this small do
    return float(emd_c(given, taken * (given.sum() / taken.sum()), np.ascontiguousarray(cost), _PIVOTS, 1)[1])


def _check(edges: np.ndarray, length: np.ndarray, nodes: int, laziness: float) -> None:
    if not 0 <= laziness < 1:
        raise InputError(f"expected a laziness in [0, 1), got {laziness}")
    if len(length) != len(edges) or not (np.isfinite(length).all() and (np.asarray(length) >= 0).all()):
        raise InputError(f"expected a finite length of at least 0 for each of {len(edges)} edges")
    if len(edges) and not 0 <= edges.min() <= edges.max() < nodes:
        raise InputError(f"an edge names a node that is not one of {nodes}")
