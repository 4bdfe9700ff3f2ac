"""How a voice sounds, measured: pitch by autocorrelation, tempo by the peaks of the envelope."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.signal.speech_features import speech_envelope

_FRAME, _HOP = 0.04, 0.02  # seconds


def median_pitch(
    waveform: Float[Tensor, " samples"], sample_rate: int, *, low: float = 60.0, high: float = 400.0
) -> float:
    """Median fundamental frequency of the voiced frames in hertz; NaN where there are none.

    The lag between ``1 / high`` and ``1 / low`` at which the autocorrelation of 40 ms, divided by that of the window,
    first comes within a tenth of its highest peak; a frame counts as voiced where that is above 0.5 and the frame is
    not much softer than the loudest.

    Raises:
        InputError: the range is empty.

    >>> time = torch.arange(16000) / 16000
    >>> voice = sum((2 * torch.pi * 120 * k * time).sin() / k for k in range(1, 6))
    >>> round(median_pitch(voice, 16000))
    120
    """
    if not 20 <= low < high <= sample_rate / 4:
        raise InputError(f"expected 20 <= low < high <= a quarter of the rate, got {low:g} and {high:g} Hz")
    size = max(round(_FRAME * sample_rate), math.ceil(2.2 * sample_rate / low))
    if waveform.shape[-1] < size:
        return math.nan
    frames = waveform.double().unfold(0, size, round(_HOP * sample_rate))
    frames = frames - frames.mean(1, keepdim=True)
    power = frames.square().mean(1)
    window = torch.hann_window(size, dtype=torch.float64)
    length = 1 << (2 * size - 1).bit_length()
    spectrum = torch.fft.rfft(frames * window, length).abs().square()
    own = torch.fft.irfft(torch.fft.rfft(window, length).abs().square(), length)
    shape = torch.fft.irfft(spectrum, length)[:, : size // 2]
    normal = shape / shape[:, :1].clamp_min(1e-20) / (own[: size // 2] / own[0])
    first, last = math.floor(sample_rate / high), min(size // 2 - 1, math.ceil(sample_rate / low))
    inside = normal[:, first:last]
    is_peak = (inside[:, 1:-1] >= inside[:, :-2]) & (inside[:, 1:-1] > inside[:, 2:])
    best = torch.where(is_peak, inside[:, 1:-1], 0.0)
    near = best >= 0.9 * best.max(1, keepdim=True).values
    lag = near.double().argmax(1) + 1 + first
    voiced = (best.max(1).values > 0.5) & (power > 1e-3 * power.max()) & (power > 1e-10)
    return float((sample_rate / lag[voiced].double()).median()) if bool(voiced.any()) else math.nan


def syllable_rate(waveform: Float[Tensor, " samples"], sample_rate: int) -> float:
    """Syllables a second, counted as peaks of the envelope (below 10 Hz) that stand out; pauses count as time.

    >>> time = torch.arange(32000) / 16000
    >>> round(syllable_rate(torch.randn(32000) * (2 * torch.pi * 2 * time).sin().clamp_min(0), 16000))
    2
    """
    rate = 100.0
    envelope = speech_envelope(waveform, sample_rate, rate).double()
    if len(envelope) < 20:
        return 0.0
    kernel = torch.hann_window(11, dtype=torch.float64)
    smooth = torch.nn.functional.conv1d(envelope[None, None], (kernel / kernel.sum())[None, None], padding=5)[0, 0]
    height = smooth - smooth.min()
    inner = height[1:-1]
    peaks = torch.where((inner > height[:-2]) & (inner >= height[2:]) & (inner > 0.25 * height.max()))[0] + 1
    kept: list[int] = []
    for peak in peaks.tolist():
        # a peak counts anew where the envelope fell by a tenth of its range since the one before
        if kept and float(height[kept[-1] : peak + 1].min()) > float(min(height[kept[-1]], height[peak])) - 0.1 * float(
            height.max()
        ):
            kept[-1] = max(kept[-1], peak, key=lambda place: float(height[place]))
        else:
            kept.append(peak)
    return len(kept) / (len(envelope) / rate)
