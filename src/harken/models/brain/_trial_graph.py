"""Trials as the nodes of one graph: labels spread from those that are known, and new trials are joined to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken.models.brain._eigenmap import Eigenmap, NeighbourGraph, weights_to
from harken.models.brain._ricci import RicciFlow
from harken.models.brain.geometric import Geometry, GraphNet, propagation


@dataclass(frozen=True)
class TrialGraph:
    """A graph of trials, as a graph network sees it.

    Attributes:
        points: standardised features of the trials, ``(trials, features)``.
        geometry: neighbours, coordinates, lengths.
        centre, spread: by which features are standardised.
        with_points: whether nodes carry their features beside their coordinates; ``with_coordinates`` likewise.
    """

    points: Float[np.ndarray, "trials features"]
    geometry: Geometry
    centre: Float[np.ndarray, " features"]
    spread: Float[np.ndarray, " features"]
    with_coordinates: bool
    with_points: bool

    @classmethod
    def of(cls, features: Float[np.ndarray, "trials features"], nodes: str, **options: Any) -> Self:
        """Standardise, join, map and let flow; ``nodes`` is what a node carries: coordinates, spectrum or both."""
        centre, spread = features.mean(0), features.std(0)
        spread = np.where(spread > 0, spread, 1.0)
        points = (features - centre) / spread
        geometry = Geometry.of(points, **options)
        return cls(points, geometry, centre, spread, nodes != "spectrum", nodes != "coordinates")

    @property
    def nodes(self) -> Float[np.ndarray, "trials inputs"]:
        """What the network reads at each node."""
        return self._read(self.geometry.eigenmap.coordinates, self.points)

    @property
    def propagation(self) -> Float[np.ndarray, "trials trials"]:
        """What a graph convolution multiplies by."""
        return propagation(self.geometry.edges, self.geometry.final_length, len(self.points))

    def logits(self, network: GraphNet) -> Float[Tensor, "trials classes"]:
        """Of all trials of the graph."""
        return network(_tensor(self.nodes), _tensor(self.propagation))

    def new_logits(
        self, network: GraphNet, features: Float[np.ndarray, "new features"]
    ) -> Float[Tensor, "new classes"]:
        """Of trials that came after the graph was made: each is joined to its nearest, which stay as they are."""
        points = (features - self.centre) / self.spread
        weights = weights_to(points, self.points, self.geometry.graph)
        eigenmap = self.geometry.eigenmap
        coordinates = eigenmap.extended(weights)
        apart = np.linalg.norm(coordinates[:, None] - eigenmap.coordinates, axis=2)
        joined = np.where(weights > 0, np.exp(-apart / (float(self.geometry.length.mean()) or 1.0)), 0.0)
        degree = 1 + joined.sum(1)
        old = np.eye(len(self.points))
        ends = self.geometry.edges
        final = self.geometry.final_length
        weight = np.exp(-final / (float(final.mean()) or 1.0))
        old[ends[:, 0], ends[:, 1]] = old[ends[:, 1], ends[:, 0]] = weight
        across = _tensor(joined / np.sqrt(degree[:, None] * old.sum(1)))
        itself = _tensor(1 / degree)[:, None]
        before = _tensor(self.nodes)
        after = network.layers(before, _tensor(self.propagation))[0]
        hidden = _tensor(self._read(coordinates, points))
        for layer, known in ((network.first, before), (network.second, after)):
            hidden = F.relu(layer(across @ known + itself * hidden))
        return network.head(hidden)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it, to be saved."""
        flow = self.geometry.flow
        extra = {} if flow is None else {"flow_length": flow.length, "flow_curvature": flow.curvature}
        return {
            "points": self.points,
            "adjacency": self.geometry.graph.adjacency,
            "scale": np.array([self.geometry.graph.scale, self.geometry.graph.neighbours], np.float64),
            "eigenvalues": self.geometry.eigenmap.eigenvalues,
            "coordinates": self.geometry.eigenmap.coordinates,
            "edges": self.geometry.edges,
            "length": self.geometry.length,
            "centre": self.centre,
            "spread": self.spread,
            "reads": np.array([self.with_coordinates, self.with_points], np.int64),
            **extra,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The reverse of :meth:`arrays`."""
        scale, neighbours = arrays["scale"]
        flow = RicciFlow(arrays["flow_length"], arrays["flow_curvature"]) if "flow_length" in arrays else None
        geometry = Geometry(
            NeighbourGraph(arrays["adjacency"], float(scale), int(neighbours)),
            Eigenmap(arrays["eigenvalues"], arrays["coordinates"]),
            arrays["edges"],
            arrays["length"],
            flow,
        )
        reads = [bool(entry) for entry in arrays["reads"]]
        return cls(arrays["points"], geometry, arrays["centre"], arrays["spread"], *reads)

    def _read(self, coordinates: np.ndarray, points: np.ndarray) -> np.ndarray:
        parts = []
        if self.with_coordinates:
            own = self.geometry.eigenmap.coordinates
            parts.append((coordinates - own.mean(0)) / np.maximum(own.std(0), 1e-12))
        if self.with_points:
            parts.append(points)
        return np.concatenate(parts, 1)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))
