"""Time stretch and pitch shift of many short signals at once, by a phase vocoder."""

from __future__ import annotations

import math

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError


def time_stretch(
    waveform: Float[Tensor, "signals samples"], rate: float | Float[Tensor, " signals"], n_fft: int
) -> Float[Tensor, "signals out"]:
    """Play ``rate`` times as fast at the same pitch; ``round(samples / rate)`` samples come out.

    Magnitudes are interpolated between frames a quarter window apart; each bin's phase goes on by its own measured
    advance (Flanagan and Golden, 1966). Signals with rates of their own come out as long as the longest, zeros last.

    Raises:
        InputError: a rate that is not positive, or rates so far apart that the signals need different frames.

    >>> time_stretch(torch.randn(2, 800), 2.0, n_fft=160).shape
    torch.Size([2, 400])
    """
    samples, device = waveform.shape[-1], waveform.device
    rates = torch.as_tensor(rate, dtype=torch.float64, device=device).reshape(-1, 1)
    if not bool((rates > 0).all()):
        raise InputError(f"expected positive rates, got {float(rates.min())}")
    hop = n_fft // 4
    window = torch.hann_window(n_fft, dtype=waveform.dtype, device=device)
    spectrum = torch.stft(waveform, n_fft, hop, window=window, pad_mode="constant", return_complex=True)
    counts = (spectrum.shape[-1] / rates).ceil()
    if bool((counts != counts[0]).any()):
        raise InputError(f"rates from {float(rates.min()):.3f} to {float(rates.max()):.3f} are too far apart")
    position = torch.arange(int(counts[0]), dtype=torch.float64, device=device) * rates
    before = position.floor().long()[:, None]
    between = (position[:, None] - before).to(waveform.dtype)
    spectrum = torch.nn.functional.pad(spectrum, (0, 2))
    magnitude, angle = spectrum.abs(), spectrum.angle()
    before = before.expand(len(waveform), magnitude.shape[1], -1)
    magnitude = (1 - between) * magnitude.gather(-1, before) + between * magnitude.gather(-1, before + 1)
    expected = 2 * math.pi * hop / n_fft * torch.arange(n_fft // 2 + 1, dtype=waveform.dtype, device=device)[:, None]
    advance = angle.gather(-1, before + 1) - angle.gather(-1, before) - expected
    advance = advance - 2 * math.pi * (advance / (2 * math.pi)).round() + expected
    phase = angle[..., :1] + torch.nn.functional.pad(advance.cumsum(-1)[..., :-1], (1, 0))
    lengths = (samples / rates).round().long()
    stretched = torch.istft(torch.polar(magnitude, phase), n_fft, hop, window=window, length=int(lengths.max()))
    return stretched * (torch.arange(stretched.shape[-1], device=device) < lengths)


def pitch_shift(
    waveform: Float[Tensor, "signals samples"], semitones: float, n_fft: int
) -> Float[Tensor, "signals samples"]:
    """Shift the pitch at the same duration: stretch in time, then resample back.

    >>> pitch_shift(torch.randn(2, 800), -2, n_fft=160).shape
    torch.Size([2, 800])
    """
    rate = 2 ** (-semitones / 12)
    stretched = time_stretch(waveform, rate, n_fft)
    back = soxr.resample(stretched.numpy().T, 1 / rate, 1.0, quality="HQ")  # the signals as channels
    return fixed_length(torch.from_numpy(np.ascontiguousarray(back.T)), waveform.shape[-1])


def fixed_length(waveform: Float[Tensor, "signals samples"], length: int) -> Float[Tensor, "signals length"]:
    """Cut the end off, or pad it with zeros."""
    return torch.nn.functional.pad(waveform, (0, length - waveform.shape[-1]))
