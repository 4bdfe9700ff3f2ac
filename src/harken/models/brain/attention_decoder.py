"""Which kind of voice does a listener attend to? AAD-LLM's decoder as a scikit-learn estimator (arXiv 2502.16794)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import nn

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain.attention_net import AttentionNet, AttentionNetConfig


class AttentionDecoder(NeuralClassifier):
    """Name the speaker cluster that a listener attends to, one listener at a time.

    ``fit(X, y)`` takes trials ``(trials, electrodes, samples)`` and the cluster of the attended talker in each. With
    two candidate talkers, :meth:`choose` compares their clusters alone.

    Args:
        width, hidden, layers, dropout: of :class:`AttentionNet`.
        epochs, batch_size, lr, weight_decay, validation, patience, seed, device, progress: of the training.

    >>> rng = np.random.default_rng(0)
    >>> kinds = np.arange(20) % 2
    >>> x = rng.standard_normal((20, 3, 40)) + kinds[:, None, None]
    >>> decoder = AttentionDecoder(width=8, hidden=8, epochs=20, lr=1e-2).fit(x, kinds)
    >>> decoder.choose(x[:2], np.array([[0, 1], [0, 1]])).tolist()
    [0, 1]
    """

    def __init__(
        self,
        *,
        width: int = 32,
        hidden: int = 32,
        layers: int = 1,
        dropout: float = 0.3,
        epochs: int = 60,
        batch_size: int = 32,
        lr: float = 3e-3,
        weight_decay: float = 1e-4,
        validation: float = 0.2,
        patience: int | None = 15,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.width = width
        self.hidden = hidden
        self.layers = layers
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

    def choose(self, X: Any, clusters: Any) -> Int[np.ndarray, " trials"]:
        """Which of the talkers of each trial is attended, by their clusters; -1 where the best two share one.

        Args:
            X: trials.
            clusters: of the talkers, ``(trials, talkers)``.

        Raises:
            InputError: not one row of clusters a trial.
        """
        log = np.log(self.predict_proba(X).clip(1e-30))
        clusters = np.asarray(clusters)
        if clusters.ndim != 2 or len(clusters) != len(log):
            raise InputError(f"expected the clusters of each stream in {len(log)} trials, got shape {clusters.shape}")
        # a cluster that nobody in the training had is as unlikely as can be
        column = np.searchsorted(self.classes_, clusters).clip(0, len(self.classes_) - 1)
        known = self.classes_[column] == clusters
        scores = np.where(known, np.take_along_axis(log, column, 1), log.min() - 1.0)
        ordered = np.sort(scores, 1)
        undecided = ordered[:, -1] == ordered[:, -2] if clusters.shape[1] > 1 else np.zeros(len(log), bool)
        return np.where(undecided, -1, scores.argmax(1))

    def _checked(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        """Trials of any length: the network takes a mean over time."""
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, channels=self.channels_)
        return x

    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        sizes = AttentionNetConfig((channels,), classes, self.width, self.hidden, self.layers, self.dropout)
        return AttentionNet(sizes)

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        self.scale_ = 1.0
        self.centre_ = x.mean((0, 2), keepdims=True, dtype=np.float64)
        spread = x.std((0, 2), keepdims=True, dtype=np.float64)
        self.spread_ = np.where(spread > 0, spread, 1.0)
        return self._prepare(x)

    def _prepare(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        return ((x - self.centre_) / self.spread_).clip(-20, 20)

    def _prepared_state(self) -> dict[str, np.ndarray]:
        return {"centre": self.centre_, "spread": self.spread_}

    def _restore_prepared(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.centre_, self.spread_ = arrays["centre"], arrays["spread"]
        if self.centre_.shape != (1, self.channels_, 1) or self.spread_.shape != (1, self.channels_, 1):
            raise ValueError("the scales are of another number of electrodes")
