"""Which flicker is looked at, without training: canonical correlation with sines, and with filter banks of them.

What SSVEP-DNN (arXiv 2011.08562) is compared with: CCA (Lin et al. 2007) and FBCCA (Chen et al. 2015).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.signal.filter_bank import Design, band_weights, split_bands

Frequencies = Sequence[float] | Mapping[str, float]
_RANK = 1e-10  # of the largest eigenvalue of a covariance: what is below it is rounding, as after a common average
_CHUNK = 1 << 22  # numbers in memory at once


def sine_references(
    frequencies: Sequence[float] | Float[np.ndarray, " classes"], samples: int, sfreq: float, harmonics: int = 5
) -> Float[np.ndarray, "classes samples components"]:
    """Sines and cosines at the harmonics of each frequency, at ``t = 1/sfreq, 2/sfreq, …``.

    Harmonics from half the rate on, which cannot have been recorded, are zero.

    >>> sine_references([10.0, 12.0], samples=50, sfreq=250.0, harmonics=3).shape
    (2, 50, 6)
    """
    time = np.arange(1, samples + 1) / sfreq
    multiples = np.asarray(frequencies, np.float64)[:, None] * np.arange(1, harmonics + 1)
    angle = 2 * np.pi * time[:, None] * multiples[:, None]
    waves = np.concatenate((np.sin(angle), np.cos(angle)), -1)
    return waves * np.tile(multiples < sfreq / 2, 2)[:, None]


def canonical_correlation(
    x: Float[np.ndarray, "*batch channels samples"], references: Float[np.ndarray, "classes samples components"]
) -> Float[np.ndarray, "*batch classes"]:
    """The largest correlation that any mixture of channels has with any mixture of a class's references.

    Both sides are centred over time and whitened; what is left is the largest singular value of their product. All
    trials and classes are done at once: one matrix product, and one small eigenvalue problem a pair. Directions without
    signal (a flat channel, the one that a common average takes) are left out rather than invented.

    >>> x = np.random.default_rng(0).standard_normal((4, 3, 200))
    >>> references = sine_references([8.0, 9.0], 200, 250.0, 2)
    >>> x[0, 1] += 2 * references[1, :, 0]
    >>> int(canonical_correlation(x, references)[0].argmax())
    1
    """
    batch, (channels, samples) = x.shape[:-2], x.shape[-2:]
    classes, _, components = references.shape
    references = _whitened(np.swapaxes(references - references.mean(1, keepdims=True), 1, 2))
    wide = references.reshape(classes * components, samples).T
    x = x.reshape(-1, channels, samples).astype(np.float64)
    found = np.empty((len(x), classes))
    step = max(1, _CHUNK // max(channels * samples, channels * classes * components))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        white = _whitened(part - part.mean(-1, keepdims=True))
        cross = (white.reshape(-1, samples) @ wide).reshape(-1, channels, classes, components).transpose(0, 2, 1, 3)
        squared = cross @ np.swapaxes(cross, -1, -2) if channels <= components else np.swapaxes(cross, -1, -2) @ cross
        found[start : start + step] = np.linalg.eigvalsh(squared)[..., -1]
    return np.sqrt(found.clip(0, 1)).reshape(*batch, classes)


def _whitened(x: Float[np.ndarray, "batch rows samples"]) -> Float[np.ndarray, "batch rows samples"]:
    """Rows made orthonormal, ``Λ^-1/2 Vᵀ x``; zero in directions without signal."""
    values, vectors = np.linalg.eigh(x @ np.swapaxes(x, -1, -2))
    kept = values > _RANK * values[..., -1:].clip(1e-300)
    scale = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1)), 0)
    return np.swapaxes(vectors * scale[..., None, :], -1, -2) @ x


class _FlickerClassifier(TransformerMixin, ClassifierMixin, BaseEstimator):
    """What the methods without training share: classes and their frequencies, scores, the largest of which wins."""

    frequencies: Frequencies | None
    sfreq: float

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn what the classes are called, and how many channels there are; nothing else is learned.

        Args:
            X: ``(trials, channels, samples)``, any unit, or ``mne.Epochs``; a window may have any length later.
            y: labels. Numbers, sorted, take ``frequencies`` in order; without labels classes are 0, 1, ….

        Raises:
            InputError: frequencies and classes do not match, or the signal cannot be used.
        """
        x, sfreq = self._checked(X)
        labels = None if y is None else np.unique(np.asarray(y))
        if isinstance(self.frequencies, Mapping):
            classes = np.unique(list(self.frequencies))
            hertz = [self.frequencies[name] for name in classes.tolist()]
            if labels is not None and not np.isin(labels, classes).all():
                raise InputError(f"no frequency is given for the label '{labels[~np.isin(labels, classes)][0]}'")
        else:
            hertz = [] if self.frequencies is None else list(self.frequencies)
            classes = np.arange(len(hertz)) if labels is None else labels
            if not np.issubdtype(classes.dtype, np.number):
                raise InputError(
                    "whose frequency is whose? For labels that are texts give a dictionary, {'left': 12.0}"
                )
            if len(classes) < len(hertz) and np.issubdtype(classes.dtype, np.integer):
                # a fold may lack a class; whole numbers say which
                classes = np.union1d(classes, np.arange(len(hertz)))
        frequencies = np.asarray(hertz, np.float64)
        if frequencies.ndim != 1 or len(frequencies) < 2 or not (np.isfinite(frequencies) & (frequencies > 0)).all():
            raise InputError("expected the flicker frequencies of two or more classes in Hz: frequencies=[9.25, 11.25]")
        if frequencies.max() >= sfreq / 2:
            raise InputError(f"{frequencies.max():g} Hz cannot be in a signal of {sfreq:g} samples a second")
        if len(classes) != len(frequencies):
            raise InputError(
                f"{len(frequencies)} frequencies but {len(classes)} classes: expected one frequency a class"
            )
        self.classes_, self.frequencies_, self.n_features_in_ = classes, frequencies, x.shape[1]
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        """A score for each class: features for a classifier that calibrates them."""
        check_is_fitted(self, "classes_")
        x, sfreq = self._checked(X)
        check_trials(x, channels=self.n_features_in_)
        return self._scores(x, sfreq)

    def predict(self, X: Any) -> np.ndarray:
        """The class of the largest score."""
        return self.classes_[self.transform(X).argmax(1)]

    def _checked(self, X: Any) -> tuple[Float[np.ndarray, "trials channels samples"], float]:
        x, sfreq, _ = as_array(X)
        check_trials(x)
        return x, sfreq or self.sfreq

    @abstractmethod
    def _scores(self, x: np.ndarray, sfreq: float) -> np.ndarray:
        """A score of each trial for each class."""


class CCAClassifier(_FlickerClassifier):
    """The class whose sines and cosines correlate best with some mixture of the channels.

    ``score(f) = max corr(w'X, v'Y_f)``, ``Y_f`` the first harmonics of f. No training; windows of any length.

    Args:
        frequencies: of the flicker, Hz: a dictionary by label, or a row in the order of sorted numbers.
        sfreq: samples a second; epochs and :class:`~harken.data.brain.Trials` bring their own.
        harmonics: how many.

    >>> from harken.data.ssvep import synthetic_ssvep
    >>> trials = synthetic_ssvep(seed=0)
    >>> CCAClassifier(trials.frequencies, trials.sfreq).fit(trials.x, trials.y).score(trials.x, trials.y) > 0.8
    True
    """

    def __init__(self, frequencies: Frequencies | None = None, sfreq: float = 250.0, *, harmonics: int = 5):
        self.frequencies = frequencies
        self.sfreq = sfreq
        self.harmonics = harmonics

    def _scores(self, x: np.ndarray, sfreq: float) -> np.ndarray:
        return canonical_correlation(x, _references(self, x, sfreq))


class FBCCAClassifier(_FlickerClassifier):
    """Canonical correlation in several bands, the lower counting more.

    ``score(f) = sum_n w_n rho_n(f)^power``, ``w_n = n^-1.25 + 0.25``. Take mains hum out of the recording first
    where a harmonic lies on it (``read_trials(..., notch=60)``): hum correlates perfectly with a sine of its frequency.

    Args:
        frequencies: of the flicker, Hz: a dictionary by label, or a row in the order of sorted numbers.
        sfreq: samples a second; epochs and :class:`~harken.data.brain.Trials` bring their own.
        bands, design: of the filter bank, see :func:`harken.signal.filter_bank.split_bands`.
        harmonics: how many.
        power: 2 as published; a widely used script has 1.
    """

    def __init__(
        self,
        frequencies: Frequencies | None = None,
        sfreq: float = 250.0,
        *,
        bands: int = 5,
        harmonics: int = 5,
        power: float = 2.0,
        design: Design = "gentle",
    ):
        self.frequencies = frequencies
        self.sfreq = sfreq
        self.bands = bands
        self.harmonics = harmonics
        self.power = power
        self.design = design

    def _scores(self, x: np.ndarray, sfreq: float) -> np.ndarray:
        bands = split_bands(x, sfreq, self.bands, design=self.design)
        rho = canonical_correlation(bands, _references(self, x, sfreq))
        return np.einsum("nbk,b->nk", rho**self.power, band_weights(self.bands))


def _references(classifier: CCAClassifier | FBCCAClassifier, x: np.ndarray, sfreq: float) -> np.ndarray:
    samples, harmonics = x.shape[-1], classifier.harmonics
    if harmonics < 1:
        raise InputError(f"expected one harmonic or more, got {harmonics}")
    if samples <= x.shape[1] + 2 * harmonics:
        raise InputError(
            f"{samples} samples are too few to tell {x.shape[1]} channels and {harmonics} harmonics from chance: "
            "take a longer window or fewer harmonics"
        )
    return sine_references(classifier.frequencies_, samples, sfreq, harmonics)
