"""How well a signal was freed of artefacts: relative errors in time and spectrum, and correlation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def score_denoising(
    clean: Float[np.ndarray, "epochs samples"], denoised: Float[np.ndarray, "epochs samples"]
) -> dict[str, float]:
    """Means over epochs of the measures of EEGdenoiseNet.

    - ``rrmse``: ``RMS(denoised - clean) / RMS(clean)``
    - ``rrmse_spectrum``: the same of power spectra
    - ``correlation``: Pearson's

    >>> x = np.sin(np.arange(64.0))[None]
    >>> score_denoising(x, x)["rrmse"], round(score_denoising(x, x)["correlation"], 6)
    (0.0, 1.0)
    """
    clean, denoised = clean.astype(np.float64), denoised.astype(np.float64)
    spectra = [np.abs(np.fft.rfft(x)) ** 2 for x in (clean, denoised)]
    one, other = clean - clean.mean(1, keepdims=True), denoised - denoised.mean(1, keepdims=True)
    norm = np.sqrt((one**2).sum(1) * (other**2).sum(1))
    return {
        "rrmse": float(np.mean(_rms(denoised - clean) / np.maximum(_rms(clean), 1e-30))),
        "rrmse_spectrum": float(np.mean(_rms(spectra[1] - spectra[0]) / np.maximum(_rms(spectra[0]), 1e-30))),
        "correlation": float(np.mean((one * other).sum(1) / np.maximum(norm, 1e-30))),
    }


def _rms(x: Float[np.ndarray, "epochs values"]) -> Float[np.ndarray, " epochs"]:
    return np.sqrt((x**2).mean(1))
