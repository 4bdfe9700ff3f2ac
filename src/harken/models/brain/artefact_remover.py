"""EEG freed of muscle noise and blinks as a step of a scikit-learn pipeline (arXiv 2502.05332; 2502.05334)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from harken.data.brain import Recording, as_array, check_trials
from harken.errors import InputError, MissingExtraError
from harken.models import load

try:
    from sklearn.base import BaseEstimator, TransformerMixin
except ImportError:
    raise MissingExtraError("scikit-learn", extra="brain") from None


class ArtefactRemover(TransformerMixin, BaseEstimator):
    """Each channel of each trial through AT-AT (:class:`harken.models.brain.denoiser.EEGDenoiser`).

    The network works at its own rate, 256 Hz for the weights that ship; other rates are resampled there and back, which
    leaves nothing above 128 Hz.

    Args:
        sfreq: of the trials, hertz; epochs of MNE say it themselves.
        weights: a folder or Hub repository; those that ship when None.
        device: where the network runs.

    >>> import numpy as np
    >>> x = np.random.default_rng(0).standard_normal((2, 3, 600)) * 1e-5
    >>> ArtefactRemover(sfreq=256.0).fit_transform(x).shape
    (2, 3, 600)
    """

    def __init__(self, sfreq: float | None = None, weights: str | None = None, device: str = "cpu"):
        self.sfreq = sfreq
        self.weights = weights
        self.device = device

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the weights; nothing is learned from the trials.

        Raises:
            CheckpointError: there are no such weights.
        """
        self.network_: Any = load("eeg-denoiser", self.weights, device=self.device)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "network_")

    def transform(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        """The trials, cleaned; shapes and unit stay.

        Raises:
            InputError: NaN, no trials, or a rate that is not known.
        """
        if not self.__sklearn_is_fitted__():
            self.fit()
        x, rate, _ = as_array(X)
        check_trials(x)
        rate = rate or self.sfreq
        if rate is None:
            raise InputError("the rate is not known: give sfreq, or epochs of MNE")
        return denoise_at(self.network_, x, rate)


def denoise_at(
    network: Any,
    x: Float[np.ndarray, "*channels samples"],
    rate: float,
    progress: Callable[[float, str], None] | None = None,
) -> Float[np.ndarray, "*channels samples"]:
    """Signals of any rate through a denoiser that has one of its own."""
    own = network.config.sfreq
    if rate == own:
        return network.denoise(x, progress=progress)
    rows = x.reshape(-1, x.shape[-1])
    there = Recording(rows.astype(np.float32), rate, tuple(map(str, range(len(rows))))).resampled(own)
    cleaned = Recording(network.denoise(there.data, progress=progress), own, there.ch_names).resampled(rate).data
    short = max(0, rows.shape[1] - cleaned.shape[1])
    return np.pad(cleaned, ((0, 0), (0, short)), mode="edge")[:, : rows.shape[1]].reshape(x.shape)
