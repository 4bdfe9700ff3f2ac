"""Classical decoders of trials that a network has to beat: common spatial patterns, Riemannian geometry, band power."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from jaxtyping import Float

from harken.data.brain import as_array
from harken.errors import InputError, MissingExtraError

try:
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
except ImportError:
    raise MissingExtraError("scikit-learn", extra="brain") from None

BASELINES = ("csp-lda", "riemann", "band-power", "means-lda")
BANDS = ((0.5, 4.0), (4.0, 8.0), (8.0, 13.0), (13.0, 20.0), (20.0, 30.0), (30.0, 45.0))


def baseline(name: str, sfreq: float) -> Any:
    """A scikit-learn pipeline on ``(trials, channels, samples)``.

    - ``csp-lda``: log power of six common spatial patterns (pyriemann), shrunk linear discriminant.
    - ``riemann``: tangent space of the trials' covariances (pyriemann), logistic regression.
    - ``band-power``: log power in six bands of each channel, logistic regression.
    - ``means-lda``: each channel's mean in twelve stretches of the trial, shrunk linear discriminant; for slow
      potentials.

    Raises:
        InputError: no baseline has that name.
        MissingExtraError: pyriemann is needed and not installed.
    """
    if name == "csp-lda":
        riemann = _pyriemann()
        csp = riemann.spatialfilters.CSP(nfilter=6, log=True)
        return make_pipeline(_Array(), riemann.estimation.Covariances("oas"), csp, _shrunk_lda())
    if name == "riemann":
        riemann = _pyriemann()
        space = riemann.tangentspace.TangentSpace()
        return make_pipeline(_Array(), riemann.estimation.Covariances("oas"), space, LogisticRegression(max_iter=1000))
    if name == "band-power":
        return make_pipeline(BandPower(sfreq), StandardScaler(), LogisticRegression(max_iter=1000))
    if name == "means-lda":
        return make_pipeline(StretchMeans(), _shrunk_lda())
    raise InputError(f"no baseline named '{name}': one of {', '.join(BASELINES)}")


class BandPower(TransformerMixin, BaseEstimator):
    """Log power of each channel in each band, ``(trials, channels * bands)``, from one tapered spectrum a trial."""

    def __init__(self, sfreq: float = 1.0, bands: tuple[tuple[float, float], ...] = BANDS):
        self.sfreq = sfreq
        self.bands = bands

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing is learned."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Any) -> Float[np.ndarray, "trials features"]:
        """Decibels, up to a constant; bands above half the rate are left out."""
        x, _, _ = as_array(X)
        power = np.abs(np.fft.rfft((x - x.mean(-1, keepdims=True)) * np.hanning(x.shape[-1]))) ** 2
        frequencies = np.fft.rfftfreq(x.shape[-1], 1 / self.sfreq)
        chosen = [(frequencies >= low) & (frequencies < high) for low, high in self.bands]
        kept = [power[..., band].mean(-1) for band in chosen if band.any()]
        if not kept:
            raise InputError(f"trials of {x.shape[-1]} samples at {self.sfreq:g} Hz hold none of the bands")
        stacked = np.stack(kept, -1)
        floor = max(float(stacked.max()) * 1e-12, np.finfo(np.float64).tiny)
        return 10 * np.log10(np.maximum(stacked, floor)).reshape(len(x), -1)


class StretchMeans(TransformerMixin, BaseEstimator):
    """Means of each channel over equal stretches of the trial, ``(trials, channels * stretches)``."""

    def __init__(self, stretches: int = 12):
        self.stretches = stretches

    def fit(self, X: Any, y: Any = None) -> Self:
        """Nothing is learned."""
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Any) -> Float[np.ndarray, "trials features"]:
        """Means, in the unit of the trials times a million, so that volts are of a size that solvers like."""
        x, _, _ = as_array(X)
        parts = np.array_split(x, min(self.stretches, x.shape[-1]), axis=-1)
        return 1e6 * np.stack([part.mean(-1) for part in parts], -1).reshape(len(x), -1)


class _Array(TransformerMixin, BaseEstimator):
    """Epochs as numbers in microvolts, in double precision: covariances of volts are too small for some solvers."""

    def fit(self, X: Any, y: Any = None) -> Self:
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def transform(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        return as_array(X)[0].astype(np.float64) * 1e6


def _shrunk_lda() -> LinearDiscriminantAnalysis:
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")


def _pyriemann() -> Any:
    try:
        import pyriemann
        import pyriemann.estimation
        import pyriemann.spatialfilters
        import pyriemann.tangentspace
    except ImportError:
        raise MissingExtraError("pyriemann", extra="brain") from None
    return pyriemann
