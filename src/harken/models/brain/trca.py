"""TRCA: filters under which trials of one flicker repeat themselves, and templates to compare with (Nakanishi 2018).

The trained baseline of SSVEP-DNN (arXiv 2011.08562).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.models.brain.ssvep import _RANK
from harken.signal.filter_bank import Design, band_weights, split_bands


class TaskComponents(NamedTuple):
    """Of each class and band: the spatial filter, whose output has a mean energy of 1, and the mean trial."""

    filters: Float[np.ndarray, "classes bands channels"]
    templates: Float[np.ndarray, "classes bands channels samples"]


def task_components(
    x: Float[np.ndarray, "trials bands channels samples"], y: Int[np.ndarray, " trials"], classes: int
) -> TaskComponents:
    """Task-related components: maximise ``w'Sw / w'Qw``, all classes and bands at once.

    ``S`` sums the covariances between different trials of a class, ``Q`` those within. Since ``S + Q`` is the
    covariance of the *summed* trials and leaves the eigenvectors as they are, no pair of trials is ever visited:
    linear in their number. The largest entry of each filter is positive.

    Args:
        x: sub-bands of training trials.
        y: their classes, 0 to ``classes - 1``, each at least twice.
        classes: how many there are.
    """
    x = x.astype(np.float64)
    x -= x.mean(-1, keepdims=True)
    belongs = (y[:, None] == np.arange(classes)).astype(np.float64)
    counts = belongs.sum(0)
    sums = np.tensordot(belongs.T, x, 1)
    within = np.tensordot(belongs.T, x @ np.swapaxes(x, -1, -2), 1)
    values, vectors = np.linalg.eigh(within)
    kept = values > _RANK * values[..., -1:].clip(1e-300)
    whiten = vectors * np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)[..., None, :]
    summed = np.swapaxes(whiten, -1, -2) @ sums
    _, directions = np.linalg.eigh(summed @ np.swapaxes(summed, -1, -2))
    filters = (whiten @ directions[..., -1:])[..., 0]
    filters *= np.sqrt(counts)[:, None, None]  # else a class with more trials would weigh less in the ensemble
    largest = np.take_along_axis(filters, np.abs(filters).argmax(-1, keepdims=True), -1)
    return TaskComponents(filters * np.where(largest < 0, -1, 1), sums / counts[:, None, None, None])


def template_correlation(
    x: Float[np.ndarray, "trials bands channels samples"], components: TaskComponents, *, ensemble: bool = True
) -> Float[np.ndarray, "trials bands classes"]:
    """Correlation of each trial with each class's template, seen through that class's filter or through all of them.

    With the ensemble the projections are matrices and are compared as such. Since trials are centred,
    ``<W'X, W'T> = <WW'X, T>``: one product for all classes, however many filters there are.
    """
    x = x - x.mean(-1, keepdims=True)
    filters, templates = components.filters, components.templates
    if ensemble:
        mixing = np.einsum("kbc,kbd->bcd", filters, filters)
        seen = mixing @ x
        trials, (classes, bands) = len(x), templates.shape[:2]
        flat_seen = seen.reshape(trials, bands, -1).transpose(1, 0, 2)
        flat_templates = templates.reshape(classes, bands, -1).transpose(1, 2, 0)
        dot = (flat_seen @ flat_templates).transpose(1, 0, 2)
        own = np.einsum("nbct,nbct->nb", seen, x)[..., None]
        others = np.einsum("kbct,kbct->bk", mixing @ templates, templates)
        return dot / np.sqrt((own * others).clip(1e-300))
    seen = np.einsum("kbc,nbct->bnkt", filters, x, optimize=True)
    expected = np.einsum("kbc,kbct->bkt", filters, templates)
    dot = np.einsum("bnkt,bkt->nbk", seen, expected, optimize=True)
    norms = np.linalg.norm(seen, axis=-1).transpose(1, 0, 2) * np.linalg.norm(expected, axis=-1)
    return dot / norms.clip(1e-300)


class TRCAClassifier(TransformerMixin, ClassifierMixin, BaseEstimator):
    """Compare a trial with the mean trial of each class through filters that bring out what repeats.

    Needs at least two trials a class of the *same* person, montage and window, and a flicker whose phase is locked to
    the start of the trials. ``score(k) = sum_n w_n corr(W'X_n, W'T_kn)``, ``w_n = n^-1.25 + 0.25``.

    Args:
        sfreq: samples a second; epochs and :class:`~harken.data.brain.Trials` bring their own.
        ensemble: compare through the filters of all classes (eTRCA) or of one (TRCA).
        bands, design: of the filter bank, see :func:`harken.signal.filter_bank.split_bands`.

    >>> from harken.data.ssvep import synthetic_ssvep
    >>> trials = synthetic_ssvep(blocks=5, snr=0.6, seed=0)
    >>> train, test = trials.session < 4, trials.session == 4
    >>> trca = TRCAClassifier(trials.sfreq).fit(trials.x[train], trials.y[train])
    >>> trca.score(trials.x[test], trials.y[test]) > 0.8
    True
    """

    def __init__(self, sfreq: float = 250.0, *, ensemble: bool = True, bands: int = 5, design: Design = "gentle"):
        self.sfreq = sfreq
        self.ensemble = ensemble
        self.bands = bands
        self.design = design

    def fit(self, X: Any, y: Any) -> Self:
        """Learn filters and templates.

        Args:
            X: ``(trials, channels, samples)``, any unit, or ``mne.Epochs``.
            y: labels.

        Raises:
            InputError: fewer than two classes, or than two trials of one.
        """
        x, sfreq, _ = as_array(X)
        check_trials(x)
        labels = np.asarray(y)
        if labels.shape != (len(x),):
            raise InputError(f"{len(x)} trials but labels of shape {labels.shape}: expected one label a trial")
        classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
        if len(classes) < 2:
            raise InputError(f"expected trials of two or more classes, got {len(classes)} class")
        if counts.min() < 2:
            raise InputError(f"class {classes[counts.argmin()]} has one trial: expected two or more of each")
        bands = split_bands(x, sfreq or self.sfreq, self.bands, design=self.design)
        components = task_components(bands, index, len(classes))
        self.filters_, self.templates_ = components
        self.classes_, self.n_features_in_ = classes, x.shape[1]
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        """A score for each class."""
        check_is_fitted(self, "classes_")
        x, sfreq, _ = as_array(X)
        check_trials(x, channels=self.n_features_in_, samples=self.templates_.shape[-1])
        bands = split_bands(x, sfreq or self.sfreq, self.bands, design=self.design)
        rho = template_correlation(bands, TaskComponents(self.filters_, self.templates_), ensemble=self.ensemble)
        return np.einsum("nbk,b->nk", rho, band_weights(self.bands))

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest score."""
        return self.classes_[self.transform(X).argmax(1)]
