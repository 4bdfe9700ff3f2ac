"""Trials read by their geometry: as one graph of trials, or each as a graph of its electrodes (arXiv 2502.05334)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain._fitting import Budget, fit_module
from harken.models.brain._trial_graph import TrialGraph
from harken.models.brain.geometric import Geometry, GraphNet, GraphNetConfig, propagation, spectra

UNLABELLED = -1


class GeometricClassifier(NeuralClassifier):
    """Spectra, a graph of neighbours, its Laplacian eigenmap, Ricci flow on its edges, and a graph network.

    With ``nodes="trials"`` all trials are one graph, in which labels spread: trials labelled -1 (where labels are whole
    numbers) lend it their shape without a label, and :attr:`transduction_` says what they were taken for. New trials
    are joined to their nearest neighbours by Nyström's extension. With ``nodes="channels"`` each trial is a graph of
    its electrodes, of which the network reads the mean.

    Args:
        nodes: ``"trials"`` or ``"channels"``.
        carries: what a node carries: ``"coordinates"`` of the eigenmap, its ``"spectrum"``, or ``"both"``.
        neighbours, dimensions: of the graph and of its eigenmap.
        iterations, step, laziness: of the Ricci flow; 0 iterations leave it out.
        bands: into how many stretches, evenly on a logarithmic axis, spectra are summed.
        hidden, dropout: of the graph network.
        epochs, lr, weight_decay, batch_size, validation, patience, seed, device, progress: as for every decoder here;
            with ``nodes="trials"`` a step sees all of them.

    Attributes:
        transduction_: with ``nodes="trials"``, the label of every trial it was fitted on, named where it was not given.
        geometry_: with ``nodes="trials"``, the graph.

    Source: arXiv 2502.05334, whose text leaves the chain open; neighbours, weights and the flow are the standard ones.
    """

    def __init__(
        self,
        nodes: Literal["trials", "channels"] = "trials",
        carries: Literal["coordinates", "spectrum", "both"] = "both",
        neighbours: int = 8,
        dimensions: int = 8,
        iterations: int = 5,
        step: float = 0.3,
        laziness: float = 0.5,
        bands: int = 16,
        hidden: int = 32,
        dropout: float = 0.2,
        epochs: int = 300,
        batch_size: int = 32,
        lr: float = 1e-2,
        weight_decay: float = 5e-4,
        validation: float = 0.2,
        patience: int | None = 50,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.nodes = nodes
        self.carries = carries
        self.neighbours = neighbours
        self.dimensions = dimensions
        self.iterations = iterations
        self.step = step
        self.laziness = laziness
        self.bands = bands
        self.hidden = hidden
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any) -> Self:
        """Make the graph or graphs, and train the network on the labels.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``.
            y: labels; with ``nodes="trials"`` whole numbers may be -1 for unknown.

        Raises:
            InputError: unusable trials or labels, or a graph that cannot be made of them.
        """
        if self.nodes not in ("trials", "channels") or self.carries not in ("coordinates", "spectrum", "both"):
            raise InputError(
                "expected nodes of trials or channels, carrying coordinates, spectrum or both; "
                f"got {self.nodes!r} carrying {self.carries!r}"
            )
        if self.nodes == "channels":
            return super().fit(X, y)
        given = np.asarray(y)
        known = given != UNLABELLED if np.issubdtype(given.dtype, np.signedinteger) else np.ones(len(given), bool)
        x, labels = self._start(X, given, known)
        graph = TrialGraph.of(self._features(x), self.carries, **self._geometry())
        config = GraphNetConfig(graph.nodes.shape[1], self.hidden, len(self.classes_), False, self.dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = GraphNet(config).to(self._device())
        train, held_out = self._held_out(labels)
        where = np.flatnonzero(known)
        nodes, spread = (
            torch.from_numpy(a.astype(np.float32)).to(self._device()) for a in (graph.nodes, graph.propagation)
        )

        def loss(module: nn.Module, index: Tensor, label: Tensor) -> Tensor:
            return F.cross_entropy(module(nodes, spread)[index], label)

        parts = [(torch.from_numpy(where[i]), torch.from_numpy(labels[i])) for i in (train, held_out)]
        self.history_ = fit_module(
            network,
            loss,
            parts[0],
            parts[1] if len(held_out) else None,
            Budget(self.epochs, max(2, len(x)), self.lr, self.weight_decay, self.patience),
            seed=self.seed,
            on_epoch=self._on_epoch,
        )
        self.module_, self.graph_, self.geometry_, self.scale_ = network, graph, graph.geometry, 1.0
        with torch.inference_mode():
            named = graph.logits(network.cpu()).argmax(1).numpy()
        self.transduction_ = np.where(known, given, self.classes_[named])
        return self

    def _start(self, X: Any, y: Any, known: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        if known is None or known.all():
            return super()._start(X, y)
        from harken.data.brain import as_array, check_trials

        x = as_array(X)[0]
        if len(known) != len(x):
            raise InputError(f"expected one label for each of {len(x)} trials, got {len(known)}")
        check_trials(x[~known])
        _, labels = super()._start(x[known], y[known])
        _, self.sfreq_, self.ch_names_ = as_array(X)
        return x, labels

    def _features(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials features"]:
        """Log power of each channel in ``bands`` stretches of its spectrum."""
        power = np.abs(np.fft.rfft((x - x.mean(-1, keepdims=True)) * np.hanning(x.shape[-1]).astype(x.dtype))) ** 2
        bins = power.shape[-1]
        edges = (
            np.unique(np.round(np.geomspace(1, bins, min(self.bands, bins - 1) + 1)).astype(int))
            if bins > 2
            else [0, bins]
        )
        summed = np.add.reduceat(power.astype(np.float64), edges[:-1], axis=-1) / np.diff(edges)
        floor = max(float(summed.max()) * 1e-12, np.finfo(np.float64).tiny)
        return np.log(np.maximum(summed, floor)).reshape(len(x), -1)

    def _geometry(self) -> dict[str, Any]:
        return {
            "neighbours": self.neighbours,
            "dimensions": self.dimensions,
            "iterations": self.iterations,
            "step": self.step,
            "laziness": self.laziness,
        }

    def _prepare(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        """Each trial's nodes, and beside them what a graph convolution multiplies by."""
        channels = x.shape[1]
        if channels < 3:
            raise InputError(f"expected trials of 3 channels or more for nodes='channels', got {channels}")
        options = self._geometry()
        options["neighbours"] = min(self.neighbours, channels - 1)
        options["dimensions"] = min(self.dimensions, channels - 1)
        made = []
        for points in spectra(x):
            geometry = Geometry.of(points, **options)
            spread = propagation(geometry.edges, geometry.final_length, channels)
            parts = [geometry.eigenmap.coordinates] if self.carries != "spectrum" else []
            parts += [points] if self.carries != "coordinates" else []
            made.append(np.concatenate((*parts, spread), 1))
        return np.stack(made).astype(np.float32)

    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        return _ElectrodeGraphs(GraphNet(GraphNetConfig(samples - channels, self.hidden, classes, True, self.dropout)))

    def _build_restored(self) -> nn.Module:
        bins = self.samples_ // 2 + 1
        dimensions = min(self.dimensions, self.channels_ - 1)
        carried = {"coordinates": dimensions, "spectrum": bins, "both": dimensions + bins}[self.carries]
        return self._build(self.channels_, carried + self.channels_, len(self.classes_))

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        self.scale_ = 1.0
        return self._prepare(x)

    def _logits(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        if self.nodes == "channels":
            return super()._logits(X)
        x = self._checked(X)
        with torch.inference_mode():
            network: Any = self.module_.cpu()
            return self.graph_.new_logits(network, self._features(x)).numpy()

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, values = super()._fitted()
        if self.nodes == "trials":
            arrays |= {f"graph.{name}": array for name, array in self.graph_.arrays().items()}
            values["transduction"] = self.transduction_.tolist()
        return arrays, values

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        if self.nodes == "channels":
            return super()._restore(arrays, values)
        from harken.models._base import build

        self.graph_ = TrialGraph.from_arrays(
            {n.removeprefix("graph."): a for n, a in arrays.items() if n[:6] == "graph."}
        )
        self.geometry_ = self.graph_.geometry
        self.classes_, self.transduction_ = np.array(values["classes"]), np.array(values["transduction"])
        self.channels_, self.samples_ = int(values["channels"]), int(values["samples"])
        self.ch_names_ = None if values["ch_names"] is None else tuple(values["ch_names"])
        self.sfreq_, self.scale_, self.history_ = values["sfreq"], 1.0, []
        config = GraphNetConfig(self.graph_.nodes.shape[1], self.hidden, len(self.classes_), False, self.dropout)
        state = {n.removeprefix("module."): torch.from_numpy(a) for n, a in arrays.items() if n[:7] == "module."}
        self.module_ = build(lambda: GraphNet(config), state).eval()
        return None


class _ElectrodeGraphs(nn.Module):
    """A graph network on trials whose last columns are the propagation between their channels."""

    def __init__(self, network: GraphNet):
        super().__init__()
        self.network = network

    def forward(self, x: Float[Tensor, "batch channels columns"]) -> Float[Tensor, "batch classes"]:
        channels = x.shape[1]
        return self.network(x[..., :-channels], x[..., -channels:])
