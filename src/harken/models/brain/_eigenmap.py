"""Points as a graph of neighbours, and the graph as coordinates: heat kernel, Laplacian eigenmap, new points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from harken.errors import InputError, MissingExtraError

LARGEST = 5000  # nodes: distances between all pairs are held


@dataclass(frozen=True)
class NeighbourGraph:
    """Points joined to their nearest by heat-kernel weights.

    Attributes:
        adjacency: ``exp(-distance^2 / scale)`` on edges, 0 elsewhere, ``(nodes, nodes)``.
        scale: the median squared distance between different points.
        neighbours: how many each point asked for; an edge is kept if either end did.
    """

    adjacency: Float[np.ndarray, "nodes nodes"]
    scale: float
    neighbours: int

    @property
    def edges(self) -> Int[np.ndarray, "edges 2"]:
        """Pairs of nodes, the smaller first, in row order."""
        return np.argwhere(np.triu(self.adjacency, 1) > 0)

    @classmethod
    def of(cls, points: Float[np.ndarray, "nodes features"], neighbours: int) -> NeighbourGraph:
        """Join points to their nearest; ties and doubles are allowed.

        Raises:
            InputError: fewer than three points, too many, or not enough for that many neighbours.
        """
        nodes = len(points)
        if not 3 <= nodes <= LARGEST:
            raise InputError(f"expected 3 to {LARGEST} nodes in a graph, got {nodes}")
        if not 1 <= neighbours < nodes:
            raise InputError(f"expected 1 to {nodes - 1} neighbours among {nodes} nodes, got {neighbours}")
        squared = squared_distances(points, points)
        apart = squared[~np.eye(nodes, dtype=bool)]
        scale = float(np.median(apart)) or float(apart.max()) or 1.0
        np.fill_diagonal(squared, np.inf)
        nearest = np.argpartition(squared, neighbours - 1, axis=1)[:, :neighbours]
        kept = np.zeros((nodes, nodes), bool)
        kept[np.arange(nodes)[:, None], nearest] = True
        kept |= kept.T
        # a weight of 0 would take the edge away again
        weights = np.maximum(np.exp(-squared / scale), np.finfo(np.float64).tiny)
        return cls(np.where(kept, weights, 0.0), scale, neighbours)


@dataclass(frozen=True)
class Eigenmap:
    """The solution of ``L y = lambda D y``: coordinates in which neighbours are near.

    Attributes:
        eigenvalues: of the symmetric normalised Laplacian, ascending, in [0, 2]; as many zeros as there are components.
        coordinates: eigenvectors 2 to ``dimensions + 1``, ``(nodes, dimensions)``; each column's largest entry is
            positive.
    """

    eigenvalues: Float[np.ndarray, " nodes"]
    coordinates: Float[np.ndarray, "nodes dimensions"]

    @classmethod
    def of(cls, adjacency: Float[np.ndarray, "nodes nodes"], dimensions: int) -> Eigenmap:
        """Belkin and Niyogi's map of a graph.

        Raises:
            InputError: more dimensions than the graph has, or a node without neighbours.
            MissingExtraError: SciPy is not installed.
        """
        try:
            from scipy.linalg import eigh
        except ImportError:
            raise MissingExtraError("scipy", extra="brain") from None

        if not 1 <= dimensions < len(adjacency):
            raise InputError(
                f"expected 1 to {len(adjacency) - 1} dimensions of {len(adjacency)} nodes, got {dimensions}"
            )
        degree = adjacency.sum(1)
        if not (degree > 0).all():
            raise InputError("a node has no neighbours: expected a graph in which every node has an edge")
        root = 1 / np.sqrt(degree)
        laplacian = np.eye(len(adjacency)) - root[:, None] * adjacency * root
        values, vectors = eigh((laplacian + laplacian.T) / 2)
        coordinates = root[:, None] * vectors[:, 1 : dimensions + 1]
        largest = np.abs(coordinates).argmax(0)
        coordinates = coordinates * np.where(coordinates[largest, np.arange(dimensions)] < 0, -1.0, 1.0)
        return cls(np.clip(values, 0, None), coordinates)

    def extended(self, weights: Float[np.ndarray, "new nodes"]) -> Float[np.ndarray, "new dimensions"]:
        """Coordinates of new points by their weights to the old (Nyström): a neighbours' mean, stretched as theirs are.

        A node of the graph satisfies ``y = D^-1 W y / (1 - lambda)``; a new point is given what satisfies it.
        """
        share = weights / np.maximum(weights.sum(1, keepdims=True), np.finfo(np.float64).tiny)
        factor = 1 - self.eigenvalues[1 : self.coordinates.shape[1] + 1]
        return share @ self.coordinates / np.where(np.abs(factor) < 0.05, 0.05, factor)


def weights_to(
    new: Float[np.ndarray, "new features"], old: Float[np.ndarray, "old features"], graph: NeighbourGraph
) -> Float[np.ndarray, "new old"]:
    """Heat-kernel weights of new points to their nearest old ones, as the graph's edges have them."""
    squared = squared_distances(new, old)
    nearest = np.argpartition(squared, graph.neighbours - 1, axis=1)[:, : graph.neighbours]
    weights = np.zeros_like(squared)
    rows = np.arange(len(new))[:, None]
    near = squared[rows, nearest]
    # relative to the nearest: a point far from all still has neighbours
    weights[rows, nearest] = np.exp(-(near - near.min(1, keepdims=True)) / graph.scale)
    return weights


def squared_distances(
    one: Float[np.ndarray, "one features"], other: Float[np.ndarray, "other features"]
) -> Float[np.ndarray, "one other"]:
    """Squared Euclidean distances of all pairs."""
    one, other = one.astype(np.float64), other.astype(np.float64)
    inner = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.maximum(inner, 0.0)
