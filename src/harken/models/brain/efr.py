"""Envelope following responses as published: from sound and EEG to transfer functions and peaks (arXiv 2507.05635)."""

from __future__ import annotations

from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from harken.errors import InputError
from harken.signal.cross_spectra import short_time_spectra
from harken.signal.zero_phase import kaiser_taps, zero_phase


def speech_envelope(audio: Float[np.ndarray, " samples"], sample_rate: float) -> Float[np.ndarray, " samples"]:
    """The envelope of a sound: 1 to 1000 Hz, magnitude of the analytic signal, below 100 Hz; all without delay.

    Args:
        audio: one channel, any unit.
        sample_rate: of it, Hz, above 2000.

    Raises:
        InputError: silence, NaN, or too low a rate.
    """
    audio = np.asarray(audio, np.float64)
    if audio.ndim != 1 or not np.isfinite(audio).all() or not np.abs(audio).max(initial=0):
        raise InputError("expected one channel of sound without NaN that is not silent")
    if sample_rate <= 2000:
        raise InputError(f"expected sound at more than 2000 Hz, got {sample_rate:g}: its envelope can be given instead")
    x = torch.from_numpy(audio)
    band = zero_phase(x, kaiser_taps(sample_rate, 10.0, low=1.0, high=1000.0), padding=0)
    return zero_phase(_magnitude(band), kaiser_taps(sample_rate, 20.0, high=100.0)).numpy()


def resample_envelope(
    envelope: Float[np.ndarray, " audio_samples"], sample_rate: float, sfreq: float, samples: int
) -> Float[np.ndarray, " samples"]:
    """An envelope over its largest value, at the times of EEG samples, by straight lines between its own.

    Raises:
        InputError: the sound ends before the EEG does, or there is nothing above zero in it.
    """
    times = np.arange(samples) / sfreq
    if samples and times[-1] > len(envelope) / sample_rate:
        seconds = len(envelope) / sample_rate
        raise InputError(f"the sound has {seconds:.3g} s, the EEG {samples / sfreq:.3g} s: cut the EEG to the sound")
    if envelope.max(initial=0) <= 0:
        raise InputError("the envelope is never above zero")
    return np.interp(times, np.arange(len(envelope)) / sample_rate, envelope / envelope.max())


def clean_eeg(
    eeg: Float[np.ndarray, "*batch samples"],
    sfreq: float,
    *,
    low: float = 1.0,
    high: float = 95.0,
    mains: float | None = 50.0,
) -> Float[np.ndarray, "*batch samples"]:
    """EEG without the mains (a notch, Q = 30) and between two edges (Butterworth, fifth order), without delay.

    Args:
        eeg: any unit.
        sfreq: samples a second; above it, the upper edge becomes 0.475 of it.
        low, high: edges, Hz.
        mains: 50 or 60 Hz; None leaves it in.

    Raises:
        InputError: edges that cannot be, or too few samples.
    """
    from scipy import signal

    high = min(high, 0.475 * sfreq)
    if not 0 < low < high:
        raise InputError(f"expected a band between 0 and {0.475 * sfreq:g} Hz, got {low:g} to {high:g}")
    if eeg.shape[-1] <= 33:
        raise InputError(f"expected more than 33 samples of EEG to filter, got {eeg.shape[-1]}")
    eeg = np.asarray(eeg, np.float64)
    if mains is not None and mains < sfreq / 2:
        eeg = signal.filtfilt(*signal.iirnotch(mains, 30, sfreq), eeg)
    # a copy: what comes back runs backwards through memory
    return np.ascontiguousarray(signal.filtfilt(*signal.butter(5, [low, high], "bandpass", fs=sfreq), eeg))


def spectral_ratio(
    eeg: Float[Tensor, "*batch channels samples"],
    envelope: Float[Tensor, "*batch samples"],
    length: int,
    hop: int,
    *,
    regularisation: float = 0.0,
) -> tuple[Complex[Tensor, "*batch channels frequencies frames"], Float[Tensor, "*batch channels frequencies frames"]]:
    """The published transfer function ``H(f, t) = X(f, t) / E(f, t)``, and the phase of X minus that of E.

    Frames in which the envelope has next to nothing at a frequency dominate every mean over it. ``regularisation``, a
    share of the mean ``|E|^2`` of each frequency, takes that away: ``X E* / (|E|^2 + eps)``.
    """
    of_eeg, of_envelope = (
        short_time_spectra(eeg, length, hop),
        short_time_spectra(envelope, length, hop)[..., None, :, :],
    )
    phase = of_eeg.angle() - of_envelope.angle()
    if not regularisation:
        return of_eeg / of_envelope, phase
    power = of_envelope.abs().square()
    return of_eeg * of_envelope.conj() / (power + regularisation * power.mean(-1, keepdim=True)), phase


class PairSpectra(NamedTuple):
    """Of every pair of channels, in the order of :func:`channel_pairs`: ``|sum H1 H2*|``, and that over both norms."""

    density: Float[Tensor, "*batch pairs frequencies"]
    coefficient: Float[Tensor, "*batch pairs frequencies"]


def channel_pairs(channels: int) -> Int[np.ndarray, "pairs 2"]:
    """``(0, 1), (0, 2), …``, every two channels once."""
    return np.array(list(combinations(range(channels), 2)), np.int64).reshape(-1, 2)


def pair_spectra(transfer: Complex[Tensor, "*batch channels frequencies frames"]) -> PairSpectra:
    """What the transfer functions of two channels have in common over time, at no lag.

    A coefficient of 1 says that one is the other times a constant. It inherits ``1 / |E|^2``: it is no coherence
    between the electrodes.
    """
    first, second = channel_pairs(transfer.shape[-3]).T
    power = transfer.abs().square().sum(-1)
    cross = (transfer[..., first, :, :] * transfer[..., second, :, :].conj()).sum(-1).abs()
    norms = (power[..., first, :] * power[..., second, :]).sqrt()
    return PairSpectra(cross, cross / norms.clamp(min=torch.finfo(norms.dtype).tiny))


def published_peaks(values: Float[np.ndarray, " frequencies"]) -> Int[np.ndarray, " peaks"]:
    """Bins of the peaks as the authors pick them: ten bins apart, above half the maximum times mean over deviation.

    Such a rule finds a peak every ten to fifteen bins of anything. Ask :class:`EnvelopeFollowing` what chance makes.
    """
    from scipy.signal import find_peaks

    spread = float(values.std())
    if not spread:
        return np.zeros(0, np.int64)
    return find_peaks(values, distance=10, height=0.5 * values.max() * values.mean() / spread)[0]


def circular_mean(phase: Float[Tensor, "*batch frames"]) -> Float[Tensor, "*batch"]:
    """The mean direction of angles; the plain mean of 179 and -179 degrees points the wrong way."""
    return torch.polar(torch.ones_like(phase), phase).mean(-1).angle()


def _magnitude(x: Tensor) -> Tensor:
    """Of the analytic signal."""
    samples = x.shape[-1]
    gain: Any = torch.zeros(samples, dtype=x.dtype)
    gain[0] = 1
    gain[1 : (samples + 1) // 2] = 2
    if samples % 2 == 0:
        gain[samples // 2] = 1
    return torch.fft.ifft(torch.fft.fft(x) * gain).abs()
