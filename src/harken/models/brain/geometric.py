"""Geometric EEG: spectra on a curved graph, evened by Ricci flow and read by a graph network (arXiv 2502.05334)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.errors import InputError
from harken.models._base import Model, build
from harken.models.brain._eigenmap import Eigenmap, NeighbourGraph
from harken.models.brain._ricci import RicciFlow, ricci_flow


@dataclass(frozen=True)
class GraphNetConfig:
    """Sizes of :class:`GraphNet`.

    Attributes:
        features: numbers a node.
        hidden: width of both layers.
        classes: logits.
        pooled: one answer a graph (the mean of its nodes) rather than one a node.
        dropout: in training, on the input of each layer.
    """

    features: int = 3
    hidden: int = 16
    classes: int = 2
    pooled: bool = True
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.features, self.hidden) < 1 or self.classes < 2 or not 0 <= self.dropout < 1:
            raise InputError("expected features and hidden of at least 1, 2 classes or more, and dropout in [0, 1)")

    @classmethod
    def small(cls) -> GraphNetConfig:
        """The default, which is small already."""
        return cls()


class GraphNet(Model):
    """Two graph convolutions and a linear layer: ``H <- ReLU(A H W + b)`` (Kipf and Welling).

    Where the published method leaves this open, the definitions are the standard ones; no code of the authors is known.

    Shape:
        - nodes: ``(..., nodes, features)``
        - propagation: ``(..., nodes, nodes)``, from :func:`propagation`
        - output: logits ``(..., classes)`` pooled, else ``(..., nodes, classes)``
    """

    slug = "geometric-eeg"
    Config = GraphNetConfig

    def __init__(self, config: GraphNetConfig | None = None):
        super().__init__(config)
        c = self.config
        self.first = nn.Linear(c.features, c.hidden)
        self.second = nn.Linear(c.hidden, c.hidden)
        self.head = nn.Linear(c.hidden, c.classes)
        for layer in (self.first, self.second, self.head):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self, nodes: Float[Tensor, "*batch nodes features"], propagation: Float[Tensor, "*batch nodes nodes"]
    ) -> Float[Tensor, "*batch classes"] | Float[Tensor, "*batch nodes classes"]:
        hidden = self.layers(nodes, propagation)[-1]
        return self.head(hidden.mean(-2) if self.config.pooled else hidden)

    def layers(
        self, nodes: Float[Tensor, "*batch nodes features"], propagation: Float[Tensor, "*batch nodes nodes"]
    ) -> tuple[Float[Tensor, "*batch nodes hidden"], Float[Tensor, "*batch nodes hidden"]]:
        """The nodes after each layer."""
        drop, kept = self.config.dropout, []
        for layer in (self.first, self.second):
            nodes = F.relu(layer(propagation @ F.dropout(nodes, drop, self.training)))
            kept.append(nodes)
        return kept[0], kept[1]

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Any], config: GraphNetConfig | None = None) -> Self:
        """From matrices ``w1, w2, wo`` that multiply from the right, and their biases ``b1, b2, bo``."""
        names = {"1": "first", "2": "second", "o": "head"}
        state = {}
        for name, tensor in state_dict.items():
            layer = names.get(str(name)[1:])
            if (
                layer
                and str(name)[0] in "wb"
                and isinstance(tensor, Tensor)
                and tensor.ndim == (2 if name[0] == "w" else 1)
            ):
                state[f"{layer}.weight" if name[0] == "w" else f"{layer}.bias"] = (
                    tensor.mT if name[0] == "w" else tensor
                )
            else:
                state[str(name)] = tensor
        first, head = state.get("first.weight"), state.get("head.weight")
        if config is None and first is not None and head is not None and len(head) > 1:
            config = GraphNetConfig(features=first.shape[1], hidden=first.shape[0], classes=head.shape[0])
        return build(lambda: cls(config), state)


@dataclass(frozen=True)
class Geometry:
    """A graph of points and what the flow made of it.

    Attributes:
        graph: points and their neighbours.
        eigenmap: their coordinates.
        edges, length: of the graph, in the coordinates.
        flow: lengths and curvature after the Ricci flow; None without one.
    """

    graph: NeighbourGraph
    eigenmap: Eigenmap
    edges: Int[np.ndarray, "edges 2"]
    length: Float[np.ndarray, " edges"]
    flow: RicciFlow | None

    @property
    def final_length(self) -> Float[np.ndarray, " edges"]:
        """Lengths after the flow, or in the coordinates where there was none."""
        return self.length if self.flow is None else self.flow.length

    @classmethod
    def of(
        cls,
        points: Float[np.ndarray, "nodes features"],
        *,
        neighbours: int = 4,
        dimensions: int = 3,
        iterations: int = 5,
        step: float = 0.3,
        laziness: float = 0.5,
    ) -> Geometry:
        """Join points, map them, and let the map's lengths flow; ``iterations=0`` leaves the flow out."""
        graph = NeighbourGraph.of(points, neighbours)
        eigenmap = Eigenmap.of(graph.adjacency, dimensions)
        edges = graph.edges
        ends = eigenmap.coordinates[edges]
        length = np.linalg.norm(ends[:, 0] - ends[:, 1], axis=1)
        flow = None
        if iterations:
            flow = ricci_flow(edges, length, len(points), iterations=iterations, step=step, laziness=laziness)
        return cls(graph, eigenmap, edges, length, flow)


def spectra(signal: Float[np.ndarray, "*trials channels samples"]) -> Float[np.ndarray, "*trials channels bins"]:
    """Each channel's ``log(1 + |rFFT| / samples)``, its mean taken out first, standardised over the bins."""
    signal = signal.astype(np.float64)
    x = np.log1p(np.abs(np.fft.rfft(signal - signal.mean(-1, keepdims=True))) / signal.shape[-1])
    return (x - x.mean(-1, keepdims=True)) / np.maximum(x.std(-1, keepdims=True), 1e-12)


def propagation(
    edges: Int[np.ndarray, "edges 2"], length: Float[np.ndarray, " edges"], nodes: int
) -> Float[np.ndarray, "nodes nodes"]:
    """What a graph convolution multiplies by: ``D^-1/2 (exp(-length / mean length) + I) D^-1/2``."""
    adjacency = np.eye(nodes)
    mean = float(length.mean()) if len(length) else 1.0
    weight = np.exp(-length / (mean or 1.0))
    adjacency[edges[:, 0], edges[:, 1]] = weight
    adjacency[edges[:, 1], edges[:, 0]] = weight
    root = 1 / np.sqrt(adjacency.sum(1))
    return root[:, None] * adjacency * root
