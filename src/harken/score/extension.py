"""Scores of extended speech: log spectra over the whole and over the missing band, and distances between phases."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from harken.errors import InputError
from harken.score.distortion import log_spectral_distance, snr, spectra_of_pairs
from harken.score.enhancement import SHORTEST, Metric
from harken.score.waveform import Waveform, matched

EXTENSION_METRICS: dict[str, Metric] = {
    "lsd": Metric("LSD", "0 and up", "", False, "distance between log power spectra, in decades"),
    "lsd_high": Metric("LSD high", "0 and up", "", False, "the same above the band that the system was given"),
    "lsd_low": Metric("LSD low", "0 and up", "", False, "the same within that band: what was done to what was there"),
    "snr": Metric("SNR", "-100 to 100", "dB", True, "signal to noise; a wrong phase or level counts"),
    "apd_ip": Metric("APD-IP", "0 to 3.14", "rad", False, "distance between phases; 1.81 is chance"),
    "apd_gd": Metric("APD-GD", "0 to 3.14", "rad", False, "the same of their differences along frequency"),
    "apd_iaf": Metric("APD-IAF", "0 to 3.14", "rad", False, "the same of their differences along time"),
}


class AntiWrappedPhaseDistance(NamedTuple):
    """Root-mean-square anti-wrapped phase errors in radians: of the phase itself, along frequency, and along time."""

    instantaneous_phase: float
    group_delay: float
    instantaneous_frequency: float


def anti_wrapped_phase_distance(
    reference: Waveform, estimate: Waveform, *, n_fft: int = 2048, hop_length: int = 512
) -> AntiWrappedPhaseDistance:
    """How far two signals' phases are apart, blind to whole turns: 0 for equal signals, ``pi / sqrt(3)`` for chance.

    ``mean_t sqrt(mean_f f(e)^2)`` with ``f(e) = e - 2 pi round(e / 2 pi)``, of the phase error ``e``, of its difference
    along frequency, and along time (each with the first value itself in front), as the evaluation program of AP-BWE
    (arXiv 2401.06387) has it.

    Raises:
        InputError: not longer than ``n_fft // 2`` samples; see also :func:`harken.score.waveform.matched`.

    >>> noise = np.random.default_rng(0).standard_normal(8000)
    >>> [round(value, 2) for value in anti_wrapped_phase_distance(noise, -noise)]
    [3.14, 0.1, 0.2]
    """
    sums, count, before = np.zeros(3), 0, None
    for ours, theirs in spectra_of_pairs(reference, estimate, n_fft=n_fft, hop_length=hop_length):
        error = np.angle(theirs) - np.angle(ours)
        first = np.zeros_like(error[:1]) if before is None else before
        along = (error, np.diff(error, axis=1, prepend=0.0), np.diff(error, axis=0, prepend=first))
        sums += [np.sqrt(np.square(_anti_wrap(part)).mean(1)).sum() for part in along]
        count, before = count + len(error), error[-1:]
    return AntiWrappedPhaseDistance(*(float(total) / count for total in sums))


def score_extension(reference: Waveform, estimate: Waveform, rate: int, *, above: float) -> dict[str, float]:
    """All of :data:`EXTENSION_METRICS` of one channel of extended speech against the wideband original.

    Args:
        reference: the original, floats ``(samples,)`` in [-1, 1].
        estimate: what a system made; its length may differ by 5 % and the longer is cut.
        rate: of both, Hz.
        above: where the missing band begins: half of the rate that the system was given, Hz.

    Raises:
        InputError: ``above`` is not within the band; a silent reference; less than 0.25 s; see also
            :func:`harken.score.waveform.matched`.

    >>> wide = np.random.default_rng(0).standard_normal(16000)
    >>> scores = score_extension(wide, wide, 16000, above=4000)
    >>> scores["lsd"], scores["lsd_high"], scores["apd_ip"]
    (0.0, 0.0, 0.0)
    """
    if not 0 < above < rate / 2:
        raise InputError(f"the missing band begins between 0 and {rate / 2:g} Hz, got {above:g}: give its lower edge")
    ours, theirs = matched(reference, estimate)
    if len(ours) < SHORTEST * rate:
        raise InputError(f"{len(ours) / rate:.3f} s is too short to score: give at least {SHORTEST} s")
    if not np.any(ours):
        raise InputError("the reference is silent: there is nothing to compare the estimate with")
    edge = above / (rate / 2)
    phase = anti_wrapped_phase_distance(ours, theirs)
    return {
        "lsd": log_spectral_distance(ours, theirs),
        "lsd_high": log_spectral_distance(ours, theirs, band=(edge, 1.0)),
        "lsd_low": log_spectral_distance(ours, theirs, band=(0.0, edge)),
        "snr": snr(ours, theirs),
        "apd_ip": phase.instantaneous_phase,
        "apd_gd": phase.group_delay,
        "apd_iaf": phase.instantaneous_frequency,
    }


def _anti_wrap(angle: np.ndarray) -> np.ndarray:
    return angle - 2 * np.pi * np.round(angle / (2 * np.pi))
