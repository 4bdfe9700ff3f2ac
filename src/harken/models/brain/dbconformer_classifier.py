"""DBConformer as a scikit-learn classifier of trials (arXiv 2506.21140)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.data.brain import Trials, as_array, check_trials
from harken.errors import InputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain._fitting import in_batches
from harken.models.brain.alignment import EuclideanAlignment
from harken.models.brain.dbconformer import Branch, DBConformer, DBConformerConfig

Alignment = Literal["none", "offline", "transductive", "online"]


class DBConformerClassifier(NeuralClassifier):
    """Decodes trials with :class:`harken.models.brain.DBConformer`; band-pass them first, as the question asks.

    Args:
        alignment: ``none``, or how :class:`harken.models.brain.EuclideanAlignment` whitens channels. ``transductive``
            looks at all trials that a call of :meth:`predict` gets: hand it one subject at a time.
        standardise: shift and scale each channel to zero mean and unit deviation over the training trials; else all
            by one number.
        patch: samples of a temporal token; an eighth of the trial when None.
        dim, heads, layers: width and heads of both branches, blocks of each.
        attention: any bidirectional mechanism.
        branch: ``both``, ``temporal`` or ``spatial``.
        channel_attention: weigh channels by learned scores.
        dropout: in training.
        shift: training trials are moved in time by up to this share of their length, at random.
        balanced: count rare classes as much as common ones.
        missing: ``error``, or ``mask``: decode trials in which channels are missing. Epochs lack them by name, arrays
            hold NaN throughout the channel.
        epochs, batch_size, lr, weight_decay: of Adam; the paper's are 100, 32, 1e-3 and 0.
        validation, patience: the last share of each class decides when to stop; 0 runs all epochs, as the paper does.
        seed: of weights, order and dropout.
        device: ``cpu``, ``cuda`` or ``auto``.
        progress: called as ``progress(share done, note)``.

    Attributes:
        positions_: of the sensors, ``(channels, 3)`` metres, NaN where unknown; None where the trials say nothing.

    >>> x = np.random.default_rng(0).standard_normal((20, 4, 80)).astype(np.float32)
    >>> y = np.arange(20) % 2
    >>> DBConformerClassifier(dim=20, layers=1, epochs=2).fit(x, y).predict(x[:3]).shape
    (3,)
    """

    def __init__(
        self,
        alignment: Alignment = "none",
        standardise: bool = True,
        patch: int | None = None,
        dim: int = 40,
        heads: int = 10,
        layers: int = 2,
        attention: str = "softmax",
        branch: Branch = "both",
        channel_attention: bool = True,
        dropout: float = 0.5,
        shift: float = 0.0,
        balanced: bool = False,
        missing: Literal["error", "mask"] = "error",
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        validation: float = 0.2,
        patience: int | None = 30,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.alignment = alignment
        self.standardise = standardise
        self.patch = patch
        self.dim = dim
        self.heads = heads
        self.layers = layers
        self.attention = attention
        self.branch = branch
        self.channel_attention = channel_attention
        self.dropout = dropout
        self.shift = shift
        self.balanced = balanced
        self.missing = missing
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Train on trials.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``; with two dimensions, trials of one channel.
            y: one label a trial, numbers or texts.
            groups: whose each trial is, for the alignment.

        Raises:
            InputError: unusable trials or parameters, labels that do not fit, or one class only.
        """
        if self.alignment not in ("none", "offline", "transductive", "online"):
            raise InputError(f"expected alignment of none, offline, transductive or online, got {self.alignment!r}")
        if self.missing not in ("error", "mask"):
            raise InputError(f"expected missing of error or mask, got {self.missing!r}")
        if not 0 <= self.shift < 1:
            raise InputError(f"expected shift in [0, 1), got {self.shift}")
        self._groups = groups
        try:
            super().fit(X, y)
        finally:
            del self._groups
        self.positions_ = sensor_positions(X)
        return self

    def channel_weights(self, X: Any) -> Float[np.ndarray, "trials channels"]:
        """How much the spatial branch attends to each channel in each trial; rows sum to 1.

        Raises:
            InputError: the decoder was built without channel attention.
        """
        x, mask = self._inputs(X)
        module: Any = self.module_
        weights = in_batches(module.channel_attention, x, self._device()).numpy() * mask
        return weights / weights.sum(1, keepdims=True)

    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        return DBConformer(
            DBConformerConfig(
                channels=channels,
                samples=samples,
                classes=classes,
                patch=self.patch or max(1, samples // 8),
                dim=self.dim,
                heads=self.heads,
                temporal_layers=self.layers,
                spatial_layers=self.layers,
                attention=self.attention,
                branch=self.branch,
                channel_attention=self.channel_attention,
                dropout=self.dropout,
            )
        )

    def _start(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        x, labels = super()._start(X, y)
        counts = np.bincount(labels)
        self.class_weight_ = len(labels) / (len(counts) * counts) if self.balanced else np.ones(len(counts))
        return x, labels

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        self.aligner_ = None
        if self.alignment != "none":
            self.aligner_ = EuclideanAlignment(self.alignment)
            x = self.aligner_.fit_transform(x, groups=self._groups)
        over = (0, 2) if self.standardise else (0, 1, 2)
        shape = (1, x.shape[1] if self.standardise else 1, 1)
        self.mean_ = x.mean(over, dtype=np.float64).reshape(shape) if self.standardise else np.zeros(shape)
        deviation = x.std(over, dtype=np.float64).reshape(shape)
        self.deviation_ = np.where(deviation > 0, deviation, 1.0)
        self.scale_ = 1.0
        return self._standardised(x)

    def _prepare(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        if self.aligner_ is not None:
            missing = np.isnan(x).all(-1)
            if not missing.any():
                x = self.aligner_.transform(x)
            else:
                aligned = np.full_like(x, np.nan)
                for pattern in np.unique(missing, axis=0):
                    rows, kept = np.flatnonzero((missing == pattern).all(1)), np.flatnonzero(~pattern)
                    aligned[np.ix_(rows, kept)] = self.aligner_.for_channels(kept.tolist()).transform(x[rows][:, kept])
                x = aligned
        return self._standardised(x)

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.mean_) / self.deviation_).astype(np.float32)

    def _prepared_state(self) -> dict[str, np.ndarray]:
        state = {"mean": self.mean_, "deviation": self.deviation_}
        if self.aligner_ is not None:
            state["covariance"] = self.aligner_.covariances_.mean(0, keepdims=True)
        if self.positions_ is not None:
            state["positions"] = self.positions_
        return state

    def _restore_prepared(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.mean_, self.deviation_ = arrays["mean"], arrays["deviation"]
        self.positions_ = arrays.get("positions")
        if any(a.shape not in ((1, 1, 1), (1, self.channels_, 1)) for a in (self.mean_, self.deviation_)):
            raise ValueError("mean and deviation do not fit the channels")
        if self.positions_ is not None and self.positions_.shape != (self.channels_, 3):
            raise ValueError("positions do not fit the channels")
        self.aligner_ = None
        if self.alignment != "none":
            self.aligner_ = EuclideanAlignment(self.alignment)
            self.aligner_._restore({"covariances": arrays["covariance"]}, {"groups": [0]})

    def _loss(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if module.training and self.shift > 0:
            x = _moved(x, round(self.shift * x.shape[-1]))
        weight = torch.as_tensor(self.class_weight_, dtype=x.dtype, device=x.device)
        return F.cross_entropy(module(x), y, weight=weight)

    def _logits(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        x, mask = self._inputs(X)
        module: Any = self.module_
        logits = np.empty((len(x), len(self.classes_)), np.float32)
        for pattern in np.unique(mask, axis=0):
            rows = np.flatnonzero((mask == pattern).all(1))
            there = None if pattern.all() else torch.from_numpy(pattern).to(self._device())

            def decode(part: Tensor, there: Tensor | None = there) -> Tensor:
                return module(part, mask=None if there is None else there.expand(len(part), -1))

            logits[rows] = in_batches(decode, x[torch.from_numpy(rows)], self._device()).numpy()
        return logits

    def _inputs(self, X: Any) -> tuple[Tensor, Bool[np.ndarray, "trials channels"]]:
        """Prepared trials, with zeros for channels that are missing, and which are there."""
        x = self._checked(X)
        mask = ~np.isnan(x).all(-1)
        prepared = np.where(mask[..., None], self._prepare(x), 0.0)
        return torch.from_numpy(np.ascontiguousarray(prepared, np.float32)), mask

    def _checked(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        if self.missing == "error":
            return super()._checked(X)
        self._check_fitted()
        x, _, names = as_array(X)
        if names is not None and self.ch_names_ is not None and names != self.ch_names_:
            x = _arranged(x, names, self.ch_names_)
        mask = np.isnan(x).all(-1)
        if mask.all(1).any():
            raise InputError(f"trial {int(mask.all(1).argmax())} has none of the channels that were fitted")
        check_trials(np.where(mask[..., None], 0.0, x), channels=self.channels_, samples=self.samples_)
        return x


def sensor_positions(X: Any) -> Float[np.ndarray, "channels 3"] | None:
    """Where the sensors of trials or epochs are, metres in the head's frame; None where they do not say."""
    if isinstance(X, Trials):
        return X.positions
    if not hasattr(X, "info"):
        return None
    picked = X.copy().pick("data")
    places = np.array([channel["loc"][:3] for channel in picked.info["chs"]])
    known = np.isfinite(places).all(1) & (np.abs(places).sum(1) > 0)
    return np.where(known[:, None], places, np.nan) if known.any() else None


def _arranged(x: np.ndarray, names: Sequence[str], fitted: Sequence[str]) -> np.ndarray:
    """Channels in the order that was fitted, NaN for those that are missing; further ones are left out."""
    out = np.full((len(x), len(fitted), x.shape[2]), np.nan, x.dtype)
    for place, name in enumerate(fitted):
        if name in names:
            out[:, place] = x[:, list(names).index(name)]
    return out


def _moved(x: Float[Tensor, "batch channels samples"], most: int) -> Float[Tensor, "batch channels samples"]:
    """Each trial moved in time by up to ``most`` samples either way; its ends are held."""
    by = torch.randint(-most, most + 1, (len(x), 1), device=x.device)
    index = (torch.arange(x.shape[-1], device=x.device) + by).clamp(0, x.shape[-1] - 1)
    return x.gather(-1, index[:, None].expand(-1, x.shape[1], -1))
