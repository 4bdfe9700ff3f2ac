"""CSIG, CBAK, COVL and what they are regressed on: log-likelihood ratio, spectral slope (Hu and Loizou, 2008)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from harken.data.audio import resample
from harken.score.distortion import segmental_snr
from harken.score.perceptual import pesq_nb, pesq_wb
from harken.score.waveform import Samples, Waveform, framewise, matched


class Composite(NamedTuple):
    """Predicted mean opinion scores, 1 (bad) to 5 (excellent): of the speech, of the background, overall."""

    csig: float
    cbak: float
    covl: float


def composite(reference: Waveform, estimate: Waveform, rate: int, *, pesq: float | None = None) -> Composite:
    """Predict how listeners would rate the speech signal, the background and the whole (Hu and Loizou, 2008).

    | score | regression, limited to 1..5 |
    |---|---|
    | CSIG | ``3.093 - 1.029 LLR + 0.603 PESQ - 0.009 WSS`` |
    | CBAK | ``1.634 + 0.478 PESQ - 0.007 WSS + 0.063 segSNR`` |
    | COVL | ``1.594 + 0.805 PESQ - 0.512 LLR - 0.007 WSS`` |

    PESQ is the wide-band score, as in published enhancement tables, computed at 16 kHz, to which other rates are
    resampled; signals at 8 kHz stay there and take the narrow-band one.

    Args:
        reference: the clean signal, ``(samples,)``, in [-1, 1].
        estimate: the processed one.
        rate: of both, in Hz.
        pesq: the PESQ score where it is known already; it costs more than the rest together.

    Returns:
        the three scores; nan where PESQ is (silence).

    Raises:
        MissingExtraError: the package ``pesq`` is not installed.
        InputError: shorter than 30 ms; see also :func:`harken.score.waveform.matched`.
    """
    at = rate if rate == 8000 else 16000
    ours, theirs = (resample(signal, rate, at) for signal in matched(reference, estimate))
    if pesq is None:
        pesq = pesq_nb(ours, theirs, at) if at == 8000 else pesq_wb(ours, theirs, at)
    envelope, slope, snr = (
        llr(ours, theirs, at),
        weighted_spectral_slope(ours, theirs, at),
        segmental_snr(ours, theirs, at),
    )
    scores = (
        3.093 - 1.029 * envelope + 0.603 * pesq - 0.009 * slope,
        1.634 + 0.478 * pesq - 0.007 * slope + 0.063 * snr,
        1.594 + 0.805 * pesq - 0.512 * envelope - 0.007 * slope,
    )
    return Composite(*(float(np.clip(score, 1, 5)) for score in scores))


def llr(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Log-likelihood ratio between linear-prediction envelopes: 0 for equal ones, larger is worse.

    Per frame ``log(a_e R a_e' / a_s R a_s')``, with ``R`` the reference's autocorrelation matrix and ``a`` the
    prediction coefficients of order 16 (10 below 10 kHz); the mean of the lowest 95 % of frames. Frames in which the
    reference is digital silence have no envelope and are left out; nan when none is left.

    Raises:
        InputError: shorter than 30 ms; see also :func:`harken.score.waveform.matched`.
    """
    order = 10 if rate < 10000 else 16

    def measure(ours: Samples, theirs: Samples) -> Samples:
        lags, theirs_lags = autocorrelation(ours, order), autocorrelation(theirs, order)
        _, error = levinson(lags)
        coefficients, _ = levinson(theirs_lags)
        # a R a' for a Toeplitz R needs only the autocorrelation of a
        weights = autocorrelation(coefficients, order)
        crossed = lags[:, 0] * weights[:, 0] + 2 * (lags[:, 1:] * weights[:, 1:]).sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(lags[:, 0] > 0, np.log(crossed / error), np.nan)

    values = framewise(measure, *matched(reference, estimate), rate)
    return _lowest(values[~np.isnan(values)])


def autocorrelation(frames: Samples, order: int) -> Samples:
    """Lags 0 to ``order`` of every row: ``(frames, samples)`` to ``(frames, order + 1)``.

    >>> autocorrelation(np.array([[1.0, 2.0, 3.0]]), 2)
    array([[14.,  8.,  3.]])
    """
    length = frames.shape[1]
    return np.stack([np.einsum("ij,ij->i", frames[:, : length - k], frames[:, k:]) for k in range(order + 1)], axis=1)


def levinson(lags: Samples) -> tuple[Samples, Samples]:
    """Solve the normal equations of linear prediction by the Levinson-Durbin recursion, for all rows at once.

    Args:
        lags: autocorrelation ``(frames, order + 1)``.

    Returns:
        the error filters ``(frames, order + 1)``, which start with 1, and the prediction errors ``(frames,)``.

    >>> filters, error = levinson(np.array([[1.0, 0.5, 0.25]]))
    >>> filters, error
    (array([[ 1. , -0.5,  0. ]]), array([0.75]))
    """
    order = lags.shape[1] - 1
    filters = np.zeros_like(lags)
    filters[:, 0] = 1
    # rounding may leave nothing, or less, of the energy of a perfectly predictable frame
    least = np.maximum(lags[:, 0] * np.finfo(np.float64).eps, np.finfo(np.float64).tiny)
    error = np.maximum(lags[:, 0], least)
    for i in range(1, order + 1):
        reflection = -np.einsum("ij,ij->i", filters[:, :i], lags[:, i:0:-1]) / error
        filters[:, 1 : i + 1] += reflection[:, None] * filters[:, i - 1 :: -1][:, :i]
        error = np.maximum(error * (1 - reflection**2), least)
    return filters, error


# Centres and widths in Hz of the 25 critical bands, up to 3.6 kHz (Klatt, 1982)
_CENTRES = (
    50, 120, 190, 260, 330, 400, 470, 540, 617.372, 703.378, 798.717, 904.128, 1020.38, 1148.30, 1288.72, 1442.54,
    1610.70, 1794.16, 1993.93, 2211.08, 2446.71, 2701.97, 2978.04, 3276.17, 3597.63,
)  # fmt: skip
_WIDTHS = (
    70, 70, 70, 70, 70, 70, 70, 77.3724, 86.0056, 95.3398, 105.411, 116.256, 127.914, 140.423, 153.823, 168.154,
    183.457, 199.776, 217.153, 235.631, 255.255, 276.072, 298.126, 321.465, 346.136,
)  # fmt: skip


@cache
def _critical_bands(rate: int, n_fft: int) -> Samples:
    """Gaussian filters ``(25, n_fft // 2)`` on the bins below Nyquist, zero where they fall below -30 dB."""
    centres, widths = (np.array(hertz) * n_fft / rate for hertz in (_CENTRES, _WIDTHS))
    bins = np.arange(n_fft // 2)
    filters = (
        widths[0] / widths[:, None] * np.exp(-11 * np.square((bins - np.floor(centres)[:, None]) / widths[:, None]))
    )
    filters[filters <= np.exp(-30 / (2 * 2.303))] = 0
    return filters


def weighted_spectral_slope(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Weighted spectral slope distance (Klatt, 1982) over 25 critical bands: 0 for equal spectra, larger is worse.

    Squared differences between the slopes of neighbouring bands in dB, weighted up near spectral peaks, divided by the
    sum of weights; the mean of the lowest 95 % of frames. Samples are taken in [-1, 1] and divided by 32768 before
    bands are floored at 1e-10, as in the program behind published tables: the value depends on level.

    Raises:
        InputError: shorter than 30 ms; see also :func:`harken.score.waveform.matched`.
    """

    def measure(ours: Samples, theirs: Samples) -> Samples:
        n_fft = 1 << (2 * ours.shape[1] - 1).bit_length()
        clean, processed = (_band_levels(frames, _critical_bands(rate, n_fft), n_fft) for frames in (ours, theirs))
        weights = (_slope_weights(clean) + _slope_weights(processed)) / 2
        difference = np.diff(clean) - np.diff(processed)
        return (weights * np.square(difference)).sum(1) / weights.sum(1)

    return _lowest(framewise(measure, *matched(reference, estimate), rate))


def _band_levels(frames: Samples, filters: Samples, n_fft: int) -> Samples:
    power = np.square(np.abs(np.fft.rfft(frames / 32768, n_fft)))[:, : n_fft // 2]
    return 10 * np.log10(np.maximum(power @ filters.T, 1e-10))


def _slope_weights(levels: Samples) -> Samples:
    """Klatt's weights of the 24 slopes: 1 at the highest peak, less the deeper a band lies below its nearest peak."""
    highest, rising, levels = levels.max(1, keepdims=True), np.diff(levels) > 0, levels[:, :-1]
    peaks = levels.copy()
    last = levels.shape[1] - 1
    # a slope's peak is its neighbour's uphill while that climbs too; rising runs end at the foot of their last slope,
    # one band short of the summit, which is how the program behind published tables counts
    for band in range(last - 1, -1, -1):
        climbs = rising[:, band] & rising[:, band + 1]
        peaks[climbs, band] = peaks[climbs, band + 1]
    for band in range(1, last + 1):
        falls = ~rising[:, band] & ~rising[:, band - 1]
        peaks[falls, band] = peaks[falls, band - 1]
    return 20 / (20 + highest - levels) / (1 + peaks - levels)


def _lowest(values: Samples, share: float = 0.95) -> float:
    """The mean of the lowest 95 % of frames, which leaves out the few that an estimate spoils."""
    return float(np.sort(values)[: max(1, round(share * len(values)))].mean()) if len(values) else float("nan")
