"""Loudness as broadcasters measure it (ITU-R BS.1770), in differentiable form."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

SHORTEST = 0.4  # seconds: one block
_HOP = 0.1
_SILENCE = -70.0  # LUFS: quieter blocks do not count
_RELATIVE = -10.0  # LU under the mean of the rest: neither do these


def integrated_loudness(waveform: Float[Tensor, "*batch samples"], rate: int) -> Float[Tensor, "*batch"]:
    """Integrated loudness of one-channel signals in LUFS; -inf where every block is quieter than -70 LUFS.

    Blocks of 0.4 s every 0.1 s of the K-weighted signal, mean power of those that pass the two gates, ``-0.691 + 10
    log10(power)``. The K-weighting is a shelf of 4 dB above 1.5 kHz and a high-pass at 38 Hz, as in ``pyloudnorm``.

    Raises:
        InputError: shorter than 0.4 s.

    >>> tone = torch.sin(2 * math.pi * 1000 * torch.arange(48000) / 16000)
    >>> round(float(integrated_loudness(tone, 16000)), 1)  # full scale; its mean power is -3.0 dB
    -3.1
    """
    samples = waveform.shape[-1]
    if samples < SHORTEST * rate:
        raise InputError(f"loudness needs at least {SHORTEST} s, got {samples / rate:.3f} s: give a longer signal")
    weighted = _k_weighted(waveform, rate)
    count = round((samples / rate - SHORTEST) / _HOP) + 1
    starts = [int(SHORTEST * (block * 0.25) * rate) for block in range(count)]
    ends = [min(int(SHORTEST * (block * 0.25 + 1) * rate), samples) for block in range(count)]
    sums = torch.nn.functional.pad(weighted.double().square().cumsum(-1), (1, 0))
    power = (sums[..., ends] - sums[..., starts]).clamp_min(0) / (SHORTEST * rate)
    with torch.no_grad():
        counts = _lufs(power) >= _SILENCE
        gate = _lufs(_mean(power, counts)) + _RELATIVE
        counts = counts & (_lufs(power) > gate[..., None])
    return _lufs(_mean(power, counts)).to(waveform.dtype)


def normalise_loudness(
    waveform: Float[Tensor, "*batch samples"], rate: int, target: float = -23.0
) -> Float[Tensor, "*batch samples"]:
    """Bring each signal to a loudness in LUFS, then down to a peak of 1 where it is above; silence stays silence.

    Raises:
        InputError: shorter than 0.4 s.
    """
    loudness = integrated_loudness(waveform, rate)
    is_heard = loudness.isfinite()
    change = torch.where(is_heard, target - loudness.masked_fill(~is_heard, 0.0), 0.0)
    louder = waveform * (10 ** (change / 20))[..., None]
    return louder / louder.abs().amax(-1, keepdim=True).clamp_min(1.0)


def _mean(power: Tensor, counts: Tensor) -> Tensor:
    return (power * counts).sum(-1) / counts.sum(-1).clamp_min(1)


def _lufs(power: Tensor) -> Tensor:
    is_heard = power > 0
    return torch.where(is_heard, -0.691 + 10 * torch.log10(torch.where(is_heard, power, 1.0)), -torch.inf)


def _k_weighted(waveform: Tensor, rate: int) -> Tensor:
    """The filters as a product of spectra: the padding outlasts their response, so that nothing wraps around."""
    length = waveform.shape[-1] + rate // 2
    spectrum = torch.fft.rfft(waveform, length)
    z = torch.exp(-2j * math.pi * torch.arange(spectrum.shape[-1], dtype=torch.float64) / length)
    response = _biquad(z, *_shelf(1500.0, rate)) * _biquad(z, *_high_pass(38.0, rate))
    response = response.to(spectrum.dtype).to(spectrum.device)
    return torch.fft.irfft(spectrum * response, length)[..., : waveform.shape[-1]]


def _biquad(z: Tensor, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Tensor:
    above, below = (c[0] + c[1] * z + c[2] * z * z for c in (numerator, denominator))
    return above / below


def _shelf(frequency: float, rate: int, gain: float = 4.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    a, w = 10 ** (gain / 40), 2 * math.pi * frequency / rate
    cosine, slope = math.cos(w), 2 * math.sqrt(a) * math.sin(w) / math.sqrt(2)
    return (
        (
            a * ((a + 1) + (a - 1) * cosine + slope),
            -2 * a * ((a - 1) + (a + 1) * cosine),
            a * ((a + 1) + (a - 1) * cosine - slope),
        ),
        ((a + 1) - (a - 1) * cosine + slope, 2 * ((a - 1) - (a + 1) * cosine), (a + 1) - (a - 1) * cosine - slope),
    )


def _high_pass(frequency: float, rate: int, quality: float = 0.5) -> tuple[tuple[float, ...], tuple[float, ...]]:
    w = 2 * math.pi * frequency / rate
    cosine, slope = math.cos(w), math.sin(w) / (2 * quality)
    return ((1 + cosine) / 2, -(1 + cosine), (1 + cosine) / 2), (1 + slope, -2 * cosine, 1 - slope)
