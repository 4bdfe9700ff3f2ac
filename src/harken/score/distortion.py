"""Distances between waveforms and spectra: SI-SDR (also as a loss), segmental SNR, log-spectral distance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.score.waveform import Samples, Waveform, framewise, matched

# share of the estimate's energy added to both sides of the ratio: bounds it to +-100 dB and keeps it scale-free
_GUARD = 1e-10


@overload
def si_sdr(
    reference: Float[Tensor, "*batch samples"], estimate: Float[Tensor, "*batch samples"], *, zero_mean: bool = True
) -> Float[Tensor, "*batch"]: ...
@overload
def si_sdr(reference: np.ndarray, estimate: np.ndarray, *, zero_mean: bool = True) -> float: ...


def si_sdr(reference: Waveform, estimate: Waveform, *, zero_mean: bool = True) -> Tensor | float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., arXiv 1811.02508, section 2).

    ``10 log10(|a s|^2 / |a s - e|^2)`` with ``a = <e, s> / |s|^2``, for reference ``s`` and estimate ``e``. A share of
    1e-10 of ``|e|^2`` is added to both energies, so that equal signals give 100 dB instead of infinity.

    Arrays ``(samples,)`` give a float, and nan where either signal is silent. Tensors ``(..., samples)`` give a tensor
    ``(...)`` with finite gradients, also for silence (0 dB); its negative is the usual training loss.

    Args:
        reference: the clean signal, any unit.
        estimate: of the same length, or for arrays within 5 % of it.
        zero_mean: remove each signal's mean first, as most tables do.

    Raises:
        InputError: tensors of different shapes; for arrays see :func:`harken.score.waveform.matched`.

    >>> time = np.arange(16000) / 16000
    >>> clean, hum = np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 50 * time)
    >>> round(si_sdr(clean, 3 * (clean + 0.1 * hum)), 3)
    20.0
    """
    if isinstance(reference, Tensor) and isinstance(estimate, Tensor):
        return _si_sdr_tensor(reference, estimate, zero_mean)
    ours, theirs = matched(reference, estimate)
    if zero_mean:
        ours, theirs = ours - ours.mean(), theirs - theirs.mean()
    power, energy = ours @ ours, theirs @ theirs
    if not power or not energy:
        return float("nan")
    target = (ours @ theirs) / power * ours
    noise = theirs - target
    guard = _GUARD * energy
    return float(10 * np.log10((target @ target + guard) / (noise @ noise + guard)))


def _si_sdr_tensor(reference: Tensor, estimate: Tensor, zero_mean: bool) -> Tensor:
    if reference.shape != estimate.shape:
        raise InputError(f"expected two tensors of one shape, got {tuple(reference.shape)} and {tuple(estimate.shape)}")
    if zero_mean:
        reference = reference - reference.mean(-1, keepdim=True)
        estimate = estimate - estimate.mean(-1, keepdim=True)
    # an absolute floor beside the relative one: silence in a batch must not poison its gradient
    floor = 1e-12
    scale = (estimate * reference).sum(-1, keepdim=True) / (reference.square().sum(-1, keepdim=True) + floor)
    target = scale * reference
    guard = _GUARD * estimate.square().sum(-1) + floor
    return 10 * torch.log10((target.square().sum(-1) + guard) / ((estimate - target).square().sum(-1) + guard))


def snr(reference: Waveform, estimate: Waveform) -> float:
    """Signal-to-noise ratio in dB, ``10 log10(|s|^2 / |s - e|^2)``: a wrong level counts, unlike in SI-SDR.

    Bounded to +-100 dB as :func:`si_sdr` is; nan where the reference is silent.

    Raises:
        InputError: see :func:`harken.score.waveform.matched`.

    >>> round(snr(np.ones(100), 0.9 * np.ones(100)), 3)
    20.0
    """
    ours, theirs = matched(reference, estimate)
    power, noise = ours @ ours, ours - theirs
    if not power:
        return float("nan")
    guard = _GUARD * power
    return float(10 * np.log10((power + guard) / (noise @ noise + guard)))


def segmental_snr(reference: Waveform, estimate: Waveform, rate: int) -> float:
    """Segmental signal-to-noise ratio in dB: the mean over 30-ms frames, each limited to -10..35 (Hu and Loizou, 2008).

    ``10 log10(sum s^2 / sum (s - e)^2)`` on Hann-windowed frames with 75 % overlap. Not invariant to scale or delay. A
    frame of digital silence in the reference counts as -10 dB.

    Raises:
        InputError: shorter than 30 ms; see also :func:`harken.score.waveform.matched`.

    >>> tone = np.sin(np.arange(8000) / 5)
    >>> round(segmental_snr(tone, 0.9 * tone, 16000), 3)
    20.0
    """

    def measure(ours: Samples, theirs: Samples) -> Samples:
        tiny = np.finfo(np.float64).eps
        ratio = np.square(ours).sum(1) / (np.square(ours - theirs).sum(1) + tiny)
        return np.clip(10 * np.log10(ratio + tiny), -10, 35)

    return float(framewise(measure, *matched(reference, estimate), rate).mean())


def log_spectral_distance(
    reference: Waveform,
    estimate: Waveform,
    *,
    n_fft: int = 2048,
    hop_length: int = 512,
    band: tuple[float, float] = (0.0, 1.0),
) -> float:
    """Log-spectral distance: 0 for equal signals, larger is worse; in decades of power (times 10: dB).

    ``mean_t sqrt(mean_f (log10 |S|^2 - log10 |E|^2)^2)``, periodic Hann window, centred frames with reflection, powers
    no smaller than 1e-8; the definition of the bandwidth-extension tables (AP-BWE, arXiv 2401.06387).

    Args:
        reference, estimate: of one rate.
        n_fft, hop_length: of the spectra.
        band: the frequencies that count, as shares of half the rate; ``(0.5, 1)`` is what a signal of half that rate
            lacks.

    Raises:
        InputError: not longer than ``n_fft // 2`` samples, or a band without frequencies; see also
            :func:`harken.score.waveform.matched`.

    >>> noise = np.random.default_rng(0).standard_normal(8000)
    >>> round(log_spectral_distance(noise, 10 * noise), 3)
    2.0
    """
    first, last = (round(edge * (n_fft // 2)) for edge in band)
    if not 0 <= first <= last <= n_fft // 2:
        raise InputError(f"expected a band within (0, 1), low before high, got {band}")
    total, count = 0.0, 0
    for spectra in spectra_of_pairs(reference, estimate, n_fft=n_fft, hop_length=hop_length):
        ours, theirs = (np.log10(np.maximum(np.abs(part[:, first : last + 1]) ** 2, 1e-8)) for part in spectra)
        total += float(np.sqrt(np.square(ours - theirs).mean(1)).sum())
        count += len(ours)
    return total / count


def spectra_of_pairs(
    reference: Waveform, estimate: Waveform, *, n_fft: int, hop_length: int, block: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Spectra ``(frames, bins)`` of both signals, some frames at a time: Hann window, centred, edges reflected.

    Raises:
        InputError: not longer than ``n_fft // 2`` samples; see also :func:`harken.score.waveform.matched`.
    """
    pair = matched(reference, estimate)
    if len(pair[0]) <= n_fft // 2:
        raise InputError(f"the signals have {len(pair[0])} samples: more than n_fft // 2 = {n_fft // 2} are needed")
    window = np.hanning(n_fft + 1)[:-1]
    views = [
        np.lib.stride_tricks.sliding_window_view(np.pad(signal, n_fft // 2, mode="reflect"), n_fft)[::hop_length]
        for signal in pair
    ]
    for start in range(0, len(views[0]), block):
        ours, theirs = (np.fft.rfft(view[start : start + block] * window) for view in views)
        yield ours, theirs
