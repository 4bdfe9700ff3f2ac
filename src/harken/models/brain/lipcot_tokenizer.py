"""LiPCoT's tokens: windows of a signal as words, by linear prediction and k-means (arXiv 2408.07292)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.data.brain import as_array, check_trials
from harken.errors import InputError, MissingExtraError
from harken.models.brain._estimator import SavedEstimator
from harken.signal.lpc import burg, cepstrum, from_cepstrum, poles, power_spectrum

try:
    from sklearn.base import TransformerMixin
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler
except ImportError:
    raise MissingExtraError("scikit-learn", extra="brain") from None

Features = Literal["lpc", "cepstral", "poles"]
_SILENCE = 1e-40  # of power: 1e-20 of a volt


def window_features(
    x: Float[Tensor, "*windows samples"],
    order: int = 16,
    warp: float = 0.2,
    kind: Features = "lpc",
    sfreq: float = 1.0,
) -> Float[Tensor, "*windows features"]:
    """What a window's all-pole model says, as numbers that k-means can compare; double precision.

    - ``lpc``: ``[a_1 .. a_p, log10 E]``.
    - ``cepstral``: ``[ln E, sqrt(n) c_n]``: their Euclidean distance is the distance of log spectra.
    - ``poles``: ``[-2 log10(1 - |p|)]``, frequencies in hertz, both by rising frequency, and ``log10 E``.

    Args:
        x: windows, any unit.
        order: poles of the model.
        warp: of its frequency axis (:func:`harken.signal.lpc.burg`).
        kind: one of these.
        sfreq: samples a second, for ``poles``.
    """
    model = burg(x, order, warp)
    power = model.error.clamp_min(_SILENCE)
    if kind == "cepstral":
        scale = torch.arange(order + 1, dtype=torch.float64, device=x.device).sqrt()
        scale[0] = 1.0
        return cepstrum(model.coefficients, power) * scale
    if kind == "poles":
        found = poles(model.coefficients)
        frequency = found.angle() * (sfreq / (2 * math.pi))
        rising = frequency.abs().argsort(dim=-1, stable=True)
        radius = -2 * (1 - found.abs()).clamp_min(1e-12).log10()
        return torch.cat((radius.gather(-1, rising), frequency.gather(-1, rising), power.log10()[..., None]), -1)
    return torch.cat((model.coefficients, power.log10()[..., None]), -1)


def nearest(
    features: Float[Tensor, "*windows features"], centres: Float[Tensor, "tokens features"]
) -> tuple[Int[Tensor, "*windows"], Float[Tensor, "*windows tokens"]]:
    """The nearest centre of each window, and all squared distances."""
    distances = (features[..., None, :] - centres).square().sum(-1)
    return distances.argmin(-1), distances


class LiPCoTTokenizer(TransformerMixin, SavedEstimator):
    """Windows become words: an all-pole model each, its numbers standardised, the nearest of ``vocabulary`` centres.

    A trial ``(channels, samples)`` is a sentence with one word a channel and window, window after window, each window's
    channels in order: ``(trials, windows * channels)``. Scaler and centres are learned by :meth:`fit`, so fit on
    training trials alone. Features depend on the sampling rate: resample before, not after.

    Args:
        order: poles of a window's model.
        warp: of its frequency axis; above 0 low frequencies are told apart more finely.
        vocabulary: words.
        features: ``lpc`` (the paper's), ``cepstral`` or ``poles``.
        window: samples of a window; the whole trial when None. What is left over at the end is not looked at.
        sfreq: samples a second, for ``poles`` and spectra.
        starts: of k-means, of which the best is kept.
        seed: of k-means.

    Attributes:
        mean_, scale_: of the features, ``(features,)``.
        centres_: ``(vocabulary, features)``, standardised.

    >>> x = np.random.default_rng(0).standard_normal((8, 2, 200))
    >>> LiPCoTTokenizer(order=4, vocabulary=5, window=100).fit_transform(x).shape
    (8, 4)
    """

    def __init__(
        self,
        order: int = 16,
        warp: float = 0.2,
        vocabulary: int = 64,
        features: Features = "lpc",
        window: int | None = None,
        sfreq: float = 1.0,
        starts: int = 10,
        seed: int = 42,
    ):
        self.order = order
        self.warp = warp
        self.vocabulary = vocabulary
        self.features = features
        self.window = window
        self.sfreq = sfreq
        self.starts = starts
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn scaler and words from training trials.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``.
            y: not used.

        Raises:
            InputError: unusable trials or parameters, or fewer different windows than words.
        """
        if self.features not in get_args(Features):
            raise InputError(f"expected features of {', '.join(get_args(Features))}, got {self.features!r}")
        x, _, _ = as_array(X)
        check_trials(x)
        self.channels_ = x.shape[1]
        found = self._features(x).reshape(-1, self._width())
        distinct = len(np.unique(found, axis=0))
        if not 2 <= self.vocabulary <= distinct:
            raise InputError(
                f"expected a vocabulary of 2 up to the {distinct} different windows given, got {self.vocabulary}"
            )
        scaler = StandardScaler().fit(found)
        clusters = KMeans(self.vocabulary, n_init=self.starts, max_iter=500, random_state=self.seed)
        clusters.fit(scaler.transform(found))
        self.mean_, self.scale_, self.centres_ = scaler.mean_, scaler.scale_, clusters.cluster_centers_
        return self

    def transform(self, X: Any) -> Int[np.ndarray, "trials words"]:
        """The words of trials, ``(trials, windows * channels)``.

        Raises:
            InputError: another number of channels than was fitted, or windows longer than the trials.
        """
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, channels=self.channels_)
        scaled = torch.from_numpy((self._features(x) - self.mean_) / self.scale_)
        centres = torch.from_numpy(self.centres_)
        return np.concatenate([nearest(part, centres)[0].numpy() for part in scaled.split(256)])

    def windows(self, samples: int) -> int:
        """Windows of a trial of so many samples."""
        return samples // (self.window or samples)

    def spectra(self, frequencies: Float[np.ndarray, " bins"]) -> Float[np.ndarray, "vocabulary bins"]:
        """What each word sounds like: the power density of its centre's model, in the trials' unit squared per hertz.

        Args:
            frequencies: hertz, up to half of ``sfreq``.

        Raises:
            InputError: words by ``poles`` have none: means of poles are no model.
        """
        self._check_fitted()
        if self.features == "poles":
            raise InputError("words by poles have no spectrum: fit with features='lpc' or 'cepstral'")
        values = torch.from_numpy(self.centres_ * self.scale_ + self.mean_)
        if self.features == "lpc":
            coefficients, error = values[:, :-1], 10 ** values[:, -1]
        else:
            scale = torch.arange(self.order + 1, dtype=torch.float64).sqrt().clamp_min(1.0)
            coefficients, error = from_cepstrum(values / scale, self.order)
        at = torch.from_numpy(np.asarray(frequencies, np.float64))
        return power_spectrum(coefficients, error, at, self.sfreq, self.warp).numpy()

    def _features(self, x: np.ndarray) -> Float[np.ndarray, "trials words features"]:
        length = self.window or x.shape[2]
        if not 1 <= length <= x.shape[2]:
            raise InputError(f"windows of {length} samples do not fit into trials of {x.shape[2]}")
        count = x.shape[2] // length
        cut = x[..., : count * length].reshape(*x.shape[:2], count, length).swapaxes(1, 2)
        tensor = torch.from_numpy(np.ascontiguousarray(cut.reshape(len(x), -1, length)))
        return window_features(tensor, self.order, self.warp, self.features, self.sfreq).numpy()

    def _width(self) -> int:
        return 2 * self.order + 1 if self.features == "poles" else self.order + 1

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        return {"mean": self.mean_, "scale": self.scale_, "centres": self.centres_}, {"channels": self.channels_}

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.mean_, self.scale_, self.centres_ = (arrays[name] for name in ("mean", "scale", "centres"))
        self.channels_ = int(values["channels"])
        if self.centres_.shape != (self.vocabulary, self._width()) or not (
            self.mean_.shape == self.scale_.shape == (self._width(),)
        ):
            raise ValueError("centres and scaler do not fit the parameters")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "centres_")
