"""Which talker is attended? Reconstruct the envelope of speech from the brain and compare (the classical decoder)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.models.brain._estimator import SavedEstimator
from harken.signal.temporal_response import (
    Moments,
    TemporalResponse,
    as_response,
    correlation,
    lag_range,
    leave_one_out,
    ridge_path,
)

_FOLDS = 8  # at most, for choosing a regularization


class EnvelopeDecoder(SavedEstimator):
    """A backward temporal response function: lagged channels to the envelope of what is attended, by ridge regression.

    ``fit(X, y)`` takes trials ``(trials, channels, samples)`` and the envelope of the attended talker in each,
    ``(trials, samples)``, at the same rate. The regularization is chosen by leaving trials out, an eighth (or one) at a
    time, all regularizations by one eigendecomposition a fold. :meth:`attend` compares a reconstruction with the
    envelopes of the talkers.

    Args:
        sfreq: samples a second.
        tmin, tmax: seconds by which the brain lags behind speech.
        regularization: one number, or several to choose from. Channels and envelopes are standardised first.

    Attributes:
        response_: :class:`~harken.signal.temporal_response.TemporalResponse`.
        regularization_: the one chosen; scores_: mean correlation of each, left-out trials; None where none was chosen.

    >>> rng = np.random.default_rng(0)
    >>> speech = rng.standard_normal((3, 200))
    >>> brain = np.stack([speech, -speech], 1) + 0.1 * rng.standard_normal((3, 2, 200))
    >>> decoder = EnvelopeDecoder(sfreq=50.0, tmin=0.0, tmax=0.1).fit(brain, speech)
    >>> decoder.attend(brain, np.stack([rng.standard_normal((3, 200)), speech], 1)).tolist()
    [1, 1, 1]
    """

    def __init__(
        self,
        *,
        sfreq: float = 64.0,
        tmin: float = 0.0,
        tmax: float = 0.35,
        regularization: float | Sequence[float] = (1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3),
    ):
        self.sfreq = sfreq
        self.tmin = tmin
        self.tmax = tmax
        self.regularization = regularization

    def fit(self, X: Any, y: Any) -> Self:
        """Learn from trials whose attended talker is known.

        Raises:
            InputError: unusable trials, envelopes that do not fit them, or a regularization below 0.
        """
        x, _, _ = as_array(X)
        check_trials(x)
        envelope = self._envelopes(y, x)
        self.channels_ = x.shape[1]
        self.centre_ = x.mean((0, 2), dtype=np.float64)[:, None]
        spread = x.std((0, 2), dtype=np.float64)[:, None]
        self.spread_ = np.where(spread > 0, spread, 1.0)
        inputs, outputs = self._inputs(x), torch.from_numpy(_standard(envelope))[..., None]
        lags = self._lags()
        given = self.regularization
        several = [float(given)] if isinstance(given, (int, float)) else [float(value) for value in given]
        sfreq = float(self.sfreq)
        self.scores_ = None
        chosen = several[0]
        if len(several) > 1:
            self.scores_ = leave_one_out(inputs, outputs, sfreq, lags, several, folds=_FOLDS).mean((0, 2)).numpy()
            chosen = several[int(self.scores_.argmax())]
        self.regularization_ = float(chosen)
        path = ridge_path(Moments.of(inputs, outputs, lags), [chosen], sfreq)
        self.response_ = as_response(path[0], chosen, lags, self.channels_, sfreq)
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "trials samples"]:
        """The reconstructed envelopes, standardised."""
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, channels=self.channels_)
        return self.response_.predict(self._inputs(x))[..., 0].numpy()

    def score(self, X: Any, y: Any) -> float:
        """Mean correlation of reconstruction and envelope."""
        made = torch.from_numpy(self.predict(X))
        return float(correlation(made, torch.from_numpy(self._envelopes(y, as_array(X)[0]))).mean())

    def correlations(self, X: Any, envelopes: Any) -> Float[np.ndarray, "trials streams"]:
        """Of the reconstruction with the envelope of each talker, ``(trials, streams, samples)``."""
        made = torch.from_numpy(self.predict(X))
        candidates = np.ascontiguousarray(envelopes, np.float64)
        if candidates.ndim != 3 or (len(candidates), candidates.shape[2]) != tuple(made.shape):
            raise InputError(f"expected envelopes ({len(made)}, talkers, {made.shape[1]}), got {candidates.shape}")
        return correlation(made[:, None].expand(candidates.shape), torch.from_numpy(candidates)).numpy()

    def attend(self, X: Any, envelopes: Any) -> Int[np.ndarray, " trials"]:
        """The number of the talker whose envelope fits best."""
        return self.correlations(X, envelopes).argmax(1)

    def _lags(self) -> tuple[int, ...]:
        return lag_range(float(self.tmin), float(self.tmax), float(self.sfreq), "backward")

    def _envelopes(self, y: Any, x: np.ndarray) -> Float[np.ndarray, "trials samples"]:
        try:
            envelope = np.asarray(y, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected envelopes as numbers: {error}") from None
        if envelope.shape != (len(x), x.shape[2]):
            raise InputError(f"expected one envelope a trial, ({len(x)}, {x.shape[2]}), got {envelope.shape}")
        if not np.isfinite(envelope).all():
            raise InputError("an envelope holds NaN or infinite values")
        return envelope

    def _inputs(self, x: np.ndarray) -> torch.Tensor:
        scaled = ((x - self.centre_) / self.spread_).clip(-20, 20)
        return torch.from_numpy(np.ascontiguousarray(scaled.swapaxes(1, 2)))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "response_")

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        r = self.response_
        arrays = {"weights": r.weights.numpy(), "bias": r.bias.numpy(), "centre": self.centre_, "spread": self.spread_}
        return arrays, {"lags": list(r.lags), "regularization": self.regularization_}

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        weights, bias = torch.from_numpy(arrays["weights"]), torch.from_numpy(arrays["bias"])
        lags = tuple(int(lag) for lag in values["lags"])
        if lags != self._lags() or weights.shape[1:] != (len(lags), 1):
            raise ValueError("the parameters do not belong to the weights")
        self.channels_ = len(weights)
        self.centre_, self.spread_ = arrays["centre"], arrays["spread"]
        if self.centre_.shape != (self.channels_, 1) or self.spread_.shape != (self.channels_, 1) or bias.shape != (1,):
            raise ValueError("the scales are of another number of channels")
        self.regularization_, self.scores_ = float(values["regularization"]), None
        self.response_ = TemporalResponse(weights, bias, lags, float(self.sfreq), self.regularization_)


def _standard(envelope: Float[np.ndarray, "trials samples"]) -> Float[np.ndarray, "trials samples"]:
    """Each trial by itself: how loud a talker was is not what is compared."""
    spread = envelope.std(1, keepdims=True)
    return (envelope - envelope.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
