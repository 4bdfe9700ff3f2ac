"""Spectra of segments and what they say of two signals: cross-spectra, coherence and how much of it chance makes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from harken.errors import InputError, MissingExtraError


def short_time_spectra(
    x: Float[Tensor, "*batch samples"], length: int, hop: int
) -> Complex[Tensor, "*batch frequencies frames"]:
    """Hann-windowed spectra, frames centred on multiples of ``hop``, zeros beyond the ends: as ``scipy.signal.stft``.

    >>> short_time_spectra(torch.randn(3, 450), 200, 100).shape
    torch.Size([3, 101, 6])
    """
    window = torch.hann_window(length, dtype=x.dtype, device=x.device)
    x = torch.nn.functional.pad(x, (0, -x.shape[-1] % hop))
    flat = x.reshape(-1, x.shape[-1])
    found = torch.stft(flat, length, hop, window=window, pad_mode="constant", return_complex=True) / window.sum()
    return found.reshape(*x.shape[:-1], *found.shape[1:])


def segment_spectra(
    x: Float[Tensor, "*batch samples"], length: int, hop: int, *, tapers: int = 0
) -> Complex[Tensor, "*batch frequencies segments"]:
    """Spectra of whole segments without their means, under Hann's window, or under several orthogonal tapers each.

    Args:
        x: any unit.
        length, hop: of the segments, samples.
        tapers: how many of Slepian's tapers (bandwidth ``(tapers + 1) / length`` cycles a sample) take each segment;
            they count as segments. 0 for Hann.

    Raises:
        InputError: the signal is shorter than a segment.
    """
    if x.shape[-1] < length:
        raise InputError(f"{x.shape[-1]} samples are less than a segment of {length}: take a shorter window")
    segments = x.unfold(-1, length, hop)
    segments = segments - segments.mean(-1, keepdim=True)
    if tapers:
        windows = _slepian(length, tapers).to(x)
    else:
        windows = torch.hann_window(length, dtype=x.dtype, device=x.device)[None]
    windows = windows / windows.square().sum(-1, keepdim=True).sqrt()
    found = torch.fft.rfft(segments[..., None, :] * windows)
    return found.flatten(-3, -2).transpose(-1, -2)


def coherence(
    x: Complex[Tensor, "*batch frequencies segments"], y: Complex[Tensor, "*batch frequencies segments"]
) -> Float[Tensor, "*batch frequencies"]:
    """Magnitude-squared: the share of one signal's power that a linear filter makes of the other, in [0, 1].

    ``|sum x y*|^2 / (sum |x|^2 sum |y|^2)`` over segments. Independent signals have about one over their number.
    """
    cross = (x * y.conj()).sum(-1)
    power = x.abs().square().sum(-1) * y.abs().square().sum(-1)
    return cross.abs().square() / power.clamp(min=torch.finfo(power.dtype).tiny)


def independent_segments(segments: int, length: int, hop: int) -> float:
    """As how many segments without overlap so many Hann-windowed ones count.

    >>> round(independent_segments(100, 200, 100), 1)
    94.8
    """
    window = torch.hann_window(length, dtype=torch.float64)
    total = float(window.square().sum())
    shared = 0.0
    for step in range(1, min(segments, -(-length // hop))):
        overlap = float((window[step * hop :] * window[: length - step * hop]).sum()) / total
        shared += 2 * (1 - step / segments) * overlap**2
    return segments / (1 + shared)


def coherence_by_chance(segments: float, alpha: float = 0.05) -> float:
    """The coherence that independent Gaussian signals exceed with probability ``alpha``: ``1 - alpha^(1 / (K - 1))``.

    >>> round(coherence_by_chance(20.0), 3)
    0.146
    """
    return 1.0 if segments <= 1 else 1 - alpha ** (1 / (segments - 1))


def without_bias(coherence: Float[Tensor, "*any"], segments: float) -> Float[Tensor, "*any"]:
    """Coherence minus what chance adds on average: ``(K c - 1) / (K - 1)``, about 0 for independent signals."""
    return (segments * coherence - 1) / max(segments - 1, 1e-9)


def _slepian(length: int, tapers: int) -> Float[Tensor, "tapers length"]:
    try:
        from scipy.signal.windows import dpss
    except ImportError:
        raise MissingExtraError("scipy", extra="brain") from None
    if not 1 <= tapers <= length // 4:
        raise InputError(f"expected 1 to {length // 4} tapers for segments of {length} samples, got {tapers}")
    return torch.from_numpy(dpss(length, (tapers + 1) / 2, tapers).copy())


def phase_shuffled(
    x: Float[Tensor, "trials channels samples"], count: int, generator: torch.Generator
) -> Float[Tensor, "count trials channels samples"]:
    """Surrogates with the spectra of trials and random phases, the same for all channels of one: when is lost."""
    spectrum = torch.fft.rfft(x)
    angle = torch.rand(count, len(x), 1, spectrum.shape[-1], generator=generator, dtype=x.dtype) * (2 * math.pi)
    angle[..., 0] = 0  # the mean stays
    if x.shape[-1] % 2 == 0:
        angle[..., -1] = 0  # and half the rate, which is real
    return torch.fft.irfft(spectrum * torch.polar(torch.ones_like(angle), angle), x.shape[-1])


def circularly_shifted(
    x: Float[Tensor, "trials channels samples"], count: int, generator: torch.Generator, *, least: int = 1
) -> Float[Tensor, "count trials channels samples"]:
    """Surrogates that begin elsewhere: every trial is moved by its own number of samples, ``least`` or more either way.

    Raises:
        InputError: the trials are too short to be moved that far.
    """
    samples = x.shape[-1]
    if samples < 2 * least + 1:
        raise InputError(f"{samples} samples cannot be shifted by {least} or more both ways: take longer trials")
    start = torch.randint(least, samples - least + 1, (count, len(x), 1, 1), generator=generator)
    index = (torch.arange(samples) + start) % samples
    return x.expand(count, *x.shape).gather(-1, index.expand(count, *x.shape))
