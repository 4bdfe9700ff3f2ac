"""Euclidean alignment: every subject's mean covariance becomes the identity (He and Wu, arXiv 1808.05464)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, get_args

import numpy as np
from jaxtyping import Float

from harken.data.brain import as_array, check_trials
from harken.errors import InputError, MissingExtraError
from harken.models.brain._estimator import SavedEstimator

try:
    from sklearn.base import TransformerMixin
except ImportError:
    raise MissingExtraError("scikit-learn", extra="brain") from None

Mode = Literal["offline", "transductive", "online"]
_EVERYBODY = 0


def mean_covariance(x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "channels channels"]:
    """Mean over trials of the channels' covariance over time, unbiased, in double precision.

    Raises:
        InputError: trials of one sample.
    """
    if x.shape[-1] < 2:
        raise InputError("a covariance needs trials of at least 2 samples, got n_samples = 1")
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    return np.einsum("nct,ndt->cd", centred, centred, optimize=True) / (len(x) * (x.shape[-1] - 1))


def inverse_square_root(covariance: Float[np.ndarray, "channels channels"]) -> Float[np.ndarray, "channels channels"]:
    """``R^(-1/2)``, symmetric; directions without power (flat or repeated channels) are not blown up."""
    values, vectors = np.linalg.eigh(covariance)
    floor = max(float(values.max(initial=0.0)) * 1e-10, np.finfo(np.float64).tiny)
    scales = np.where(values > floor, 1 / np.sqrt(np.maximum(values, floor)), 0.0)
    return (vectors * scales) @ vectors.T


class RunningAlignment:
    """Euclidean alignment of trials that arrive one by one: each by the mean covariance of all up to itself.

    Args:
        reference: a mean covariance to begin with, of earlier recordings; None begins with the first trial.
        prior: trials that the reference counts as.

    >>> aligned = RunningAlignment().push(np.random.default_rng(0).standard_normal((3, 200)))
    >>> np.allclose(np.cov(aligned), np.eye(3))
    True
    """

    def __init__(self, reference: Float[np.ndarray, "channels channels"] | None = None, prior: float = 0.0):
        self.count = prior if reference is not None else 0.0
        self.total = 0.0 if reference is None else reference * prior

    def push(self, trial: Float[np.ndarray, "channels samples"]) -> Float[np.ndarray, "channels samples"]:
        """The trial, aligned; it counts from now on."""
        self.total = self.total + mean_covariance(trial[None])
        self.count += 1
        return inverse_square_root(np.asarray(self.total / self.count)) @ trial


class EuclideanAlignment(TransformerMixin, SavedEstimator):
    """Whitens each subject's trials by their mean covariance: ``X <- R^(-1/2) X``, ``R = mean_i cov(X_i)``.

    Subjects, whose caps and skulls differ, then look alike to a decoder. No labels are used, but which trials ``R`` is
    taken from decides what an accuracy means, so it is said by name:

    - ``offline``: from the trials given to :meth:`fit` alone. New trials of a known group are whitened by its own
      matrix; without groups all share one.
    - ``transductive``: from the very trials that are transformed, group by group. This is how most published numbers
      come about: the whole test recording must be there before its first trial is decoded.
    - ``online``: trial by trial, from the trials up to it, in the order given; what a live decoder can do.

    Args:
        mode: one of these.
        prior: in ``online``, how many trials the fitted mean covariance counts as at the start.

    Attributes:
        groups_: labels of the groups that were fitted.
        covariances_: their mean covariances, ``(groups, channels, channels)``.

    Source: section 3 of arXiv 2506.21140, after arXiv 1808.05464.

    >>> x = np.random.default_rng(0).standard_normal((20, 3, 100)) * [[1.0], [5.0], [0.1]]
    >>> aligned = EuclideanAlignment().fit_transform(x)
    >>> np.allclose(mean_covariance(aligned), np.eye(3), atol=1e-6)
    True
    """

    def __init__(self, mode: Mode = "offline", prior: float = 0.0):
        self.mode = mode
        self.prior = prior

    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Take the mean covariance of each group.

        Args:
            X: ``(trials, channels, samples)`` or ``mne.Epochs``.
            y: not used.
            groups: whose each trial is, subjects as a rule; all are one group when None.

        Raises:
            InputError: unusable trials, an unknown mode, or another number of groups than trials.
        """
        if self.mode not in get_args(Mode) or not self.prior >= 0:
            raise InputError(f"expected mode of offline, transductive or online and prior >= 0, got {self.mode!r}")
        x, _, _ = as_array(X)
        check_trials(x)
        labels = _labels(groups, len(x))
        self.groups_, of = np.unique(labels, return_inverse=True)
        self.covariances_ = np.stack([mean_covariance(x[of == number]) for number in range(len(self.groups_))])
        return self

    def transform(self, X: Any, groups: Any = None) -> Float[np.ndarray, "trials channels _"]:
        """Whiten trials, as the mode says.

        Raises:
            InputError: another number of channels, or (``offline``) a group that was not fitted.
        """
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, channels=self.covariances_.shape[1])
        labels = _labels(groups, len(x))
        out = np.empty_like(x)
        for label in np.unique(labels):
            here = np.flatnonzero(labels == label)
            if self.mode == "transductive":
                out[here] = inverse_square_root(mean_covariance(x[here])) @ x[here]
            elif self.mode == "online":
                running = RunningAlignment(self._mean(), self.prior)
                for number in here:
                    out[number] = running.push(x[number])
            else:
                out[here] = inverse_square_root(self._of_group(label, groups is None)) @ x[here]
        return out

    def fit_transform(self, X: Any, y: Any = None, groups: Any = None) -> Any:
        """Both, on the same trials."""
        return self.fit(X, y, groups).transform(X, groups)

    def for_channels(self, index: Sequence[int]) -> EuclideanAlignment:
        """The same alignment of some of the channels: what is left when others were not recorded."""
        part = EuclideanAlignment(self.mode, self.prior)
        part.groups_ = self.groups_
        part.covariances_ = self.covariances_[:, index][:, :, index]
        return part

    def _mean(self) -> Float[np.ndarray, "channels channels"]:
        return self.covariances_.mean(0)

    def _of_group(self, label: Any, ungrouped: bool) -> Float[np.ndarray, "channels channels"]:
        if ungrouped:
            return self._mean()
        found = np.flatnonzero(self.groups_ == label)
        if not len(found):
            raise InputError(f"group {label} was not fitted: fit on unlabelled trials of it, or choose another mode")
        return self.covariances_[found[0]]

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"covariances": self.covariances_}, {"groups": self.groups_.tolist()}

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.groups_, self.covariances_ = np.array(values["groups"]), arrays["covariances"]
        shape = self.covariances_.shape
        if len(shape) != 3 or shape[0] != len(self.groups_) or shape[1] != shape[2]:
            raise ValueError("covariances and groups do not fit")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "covariances_")


def _labels(groups: Any, count: int) -> np.ndarray:
    labels = np.full(count, _EVERYBODY) if groups is None else np.asarray(groups)
    if labels.shape != (count,):
        raise InputError(f"expected one group for each of {count} trials, got groups of shape {labels.shape}")
    return labels
