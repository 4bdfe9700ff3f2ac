"""Impulse responses of minimum phase: a magnitude's earliest response, found through the cepstrum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError


def minimum_phase(magnitude: Float[Tensor, "*batch bins"], taps: int) -> Float[Tensor, "*batch taps"]:
    """The response of smallest delay that has a magnitude, cut to ``taps`` with a short fade.

    The phase is the Hilbert transform of the log magnitude (Oppenheim and Schafer): the real cepstrum, its second half
    folded onto its first, exponentiated. Bins are those of an FFT of ``2 (bins - 1)`` samples; many more of them than
    taps keep the cepstrum from wrapping around.

    Raises:
        InputError: more taps than the FFT has samples, or fewer than 3 bins.

    >>> minimum_phase(torch.full((65,), 2.0), 4).round(decimals=4)
    tensor([2., 0., 0., 0.])
    """
    bins = magnitude.shape[-1]
    samples = 2 * (bins - 1)
    if bins < 3 or not 1 <= taps <= samples:
        raise InputError(f"expected at least 3 bins and 1 to {samples} taps, got {bins} bins and {taps} taps")
    log = magnitude.clamp_min(1e-9).log()
    cepstrum = torch.fft.irfft(log.to(torch.complex64 if log.dtype == torch.float32 else torch.complex128), samples)
    fold = torch.zeros_like(cepstrum)
    fold[..., 0], fold[..., samples // 2] = cepstrum[..., 0], cepstrum[..., samples // 2]
    fold[..., 1 : samples // 2] = 2 * cepstrum[..., 1 : samples // 2]
    response = torch.fft.irfft(torch.fft.rfft(fold).exp(), samples)[..., :taps]
    fade = taps // 8
    if fade and taps < samples:
        window = torch.ones(taps, dtype=response.dtype, device=response.device)
        window[-fade:] = torch.cos(torch.linspace(0, torch.pi / 2, fade + 1, dtype=response.dtype)[1:]).square()
        response = response * window
    return response


def delayed(response: Float[Tensor, "*batch taps"], samples: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch taps"]:
    """Responses moved to later by any number of samples, whole or not; what leaves the end is lost.

    >>> delayed(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.tensor(2.0)).round(decimals=4).abs()
    tensor([0., 0., 1., 0.])
    """
    taps = response.shape[-1]
    length = 2 * taps  # room for what would come round again
    turns = torch.arange(length // 2 + 1, dtype=response.dtype, device=response.device) / length
    phase = -2 * torch.pi * turns * samples[..., None]
    moved = torch.fft.rfft(response, length) * torch.polar(torch.ones_like(phase), phase)
    return torch.fft.irfft(moved, length)[..., :taps]
