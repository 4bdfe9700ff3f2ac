"""Long FIR filters run forwards and backwards, through the Fourier transform: no delay, and no waiting."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError


def kaiser_taps(
    sfreq: float, transition: float, *, low: float | None = None, high: float | None = None
) -> Float[Tensor, " taps"]:
    """Windowed sinc of linear phase: odd(round(3.3 sfreq / transition)) taps, unit gain in the middle of its pass-band.

    The window is Kaiser's, whose shape follows from the length and the transition (β = 5.1 here, 55 dB down).

    Args:
        sfreq: samples a second.
        transition: width of a transition, Hz.
        low, high: where half of the amplitude is left; one of them None for a low-pass or high-pass.

    Raises:
        InputError: edges that are not between 0 and half the rate, in this order.

    >>> len(kaiser_taps(22050.0, 10.0, low=1.0, high=1000.0))
    7277
    """
    edges = [edge for edge in (low, high) if edge is not None]
    if not edges or any(not 0 < edge < sfreq / 2 for edge in edges) or edges != sorted(set(edges)):
        raise InputError(f"expected rising edges between 0 and {sfreq / 2:g} Hz, got {low} and {high}")
    if not 0 < transition < sfreq / 2:
        raise InputError(f"expected a transition between 0 and {sfreq / 2:g} Hz, got {transition:g}")
    count = round(3.3 * sfreq / transition)
    count += 1 - count % 2
    # Kaiser's rules: the attenuation that a length gives, the shape for an attenuation
    attenuation = 2.285 * (count - 1) * math.pi * transition / (sfreq / 2) + 7.95
    beta = 0.5842 * max(0.0, attenuation - 21) ** 0.4 + 0.07886 * max(0.0, attenuation - 21)
    beta = 0.1102 * (attenuation - 8.7) if attenuation > 50 else beta
    window = torch.kaiser_window(count, periodic=False, beta=beta, dtype=torch.float64)
    position = torch.arange(count, dtype=torch.float64) - (count - 1) / 2
    left, right = (low or 0.0) / (sfreq / 2), 1.0 if high is None else high / (sfreq / 2)
    taps = window * (right * torch.sinc(right * position) - left * torch.sinc(left * position))
    centre = 0.0 if low is None else 1.0 if high is None else (left + right) / 2
    return taps / (taps * torch.cos(math.pi * position * centre)).sum()


def zero_phase(
    x: Float[Tensor, "*batch samples"], taps: Float[Tensor, " taps"], *, padding: int | None = None
) -> Float[Tensor, "*batch samples"]:
    """An FIR filter forwards, then backwards: twice the attenuation, no delay, a pulse stays symmetric.

    Equal to ``scipy.signal.filtfilt(taps, 1, x, padlen=padding)``, with two fast convolutions where that walks every
    tap of every sample. Beyond its ends the signal is turned about its last value (``padding`` samples of that), and
    then holds.

    Args:
        x: any unit; the dimensions before the last are a batch.
        taps: of the filter.
        padding: samples of odd extension on both sides; three times the taps, or as many as there are, when None.

    Raises:
        InputError: no samples, or a padding that the signal is too short for.
    """
    samples = x.shape[-1]
    if samples < 2:
        raise InputError(f"expected two samples or more to filter, got {samples}")
    padding = min(3 * len(taps), samples - 1) if padding is None else padding
    if not 0 <= padding < samples:
        raise InputError(f"expected a padding of 0 to {samples - 1} samples, got {padding}")
    ends = (2 * x[..., :1] - x[..., 1 : padding + 1].flip(-1), 2 * x[..., -1:] - x[..., -padding - 1 : -1].flip(-1))
    padded = torch.cat((ends[0], x, ends[1]), -1) if padding else x
    taps = taps.to(x)
    forwards = _held_convolution(padded, taps)
    backwards = _held_convolution(forwards.flip(-1), taps).flip(-1)
    return backwards[..., padding : padding + samples]


def _held_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """Causal convolution of a signal whose first value had been there for ever."""
    held = torch.cat((x[..., :1].expand(*x.shape[:-1], len(taps) - 1), x), -1)
    size = fast_length(held.shape[-1] + len(taps) - 1)
    product = torch.fft.rfft(held, size) * torch.fft.rfft(taps, size)
    return torch.fft.irfft(product, size)[..., len(taps) - 1 : held.shape[-1]]


def fast_length(length: int) -> int:
    """The next number without prime factors above five: transforms of that length are fast.

    >>> fast_length(1023), fast_length(7)
    (1024, 8)
    """
    best = 1 << max(0, length - 1).bit_length()
    five = 1
    while five < best:
        three = five
        while three < best:
            rest = -(-length // three)
            best = min(best, three << max(0, rest - 1).bit_length())
            three *= 3
        five *= 5
    return best
