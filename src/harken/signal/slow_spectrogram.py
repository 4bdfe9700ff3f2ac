"""Spectrograms of slow signals as pictures: given rows and columns over given seconds and hertz, at any rate."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

_OVERLAP = 4.0  # how many columns an analysis window spans


def slow_spectrogram(
    signal: Float[Tensor, "*batch samples"],
    sfreq: float,
    *,
    max_frequency: float,
    rows: int,
    columns: int,
) -> Float[Tensor, "*batch rows columns"]:
    """Decibels of power from 0 Hz to ``max_frequency``, row 0 the lowest, columns over the whole signal.

    A Hann window spans four columns, or what tells rows apart where that is longer; its powers are averaged over
    the frequencies of a row.

    Args:
        signal: any unit.
        sfreq: hertz.
        max_frequency: upper edge, at most half the rate.
        rows, columns: of the picture.

    Raises:
        InputError: more than half the rate is asked for, or the signal is too short for so many columns.

    >>> time = torch.arange(6000) / 200
    >>> picture = slow_spectrogram(torch.sin(2 * torch.pi * 30 * time), 200.0, max_frequency=100.0, rows=50, columns=64)
    >>> picture.shape, int(picture.mean(1).argmax())
    (torch.Size([50, 64]), 15)
    """
    samples = signal.shape[-1]
    if not 0 < max_frequency <= sfreq / 2:
        raise InputError(
            f"a signal of {sfreq:g} samples a second holds frequencies up to {sfreq / 2:g} Hz, not {max_frequency:g}"
        )
    if samples < 2 * columns:
        raise InputError(f"{samples} samples are too few for {columns} columns: take a longer signal")
    hop = samples / columns
    length = min(samples, max(round(_OVERLAP * hop), round(2 * rows * sfreq / (2 * max_frequency)), 8))
    n_fft = 1 << (2 * length - 1).bit_length()
    flat = signal.reshape(-1, samples).float()
    padded = F.pad(
        flat[:, None], (length // 2, length - length // 2), mode="reflect" if length < samples else "replicate"
    )
    starts = ((torch.arange(columns, device=signal.device) + 0.5) * hop).long()
    index = starts[:, None] + torch.arange(length, device=signal.device)
    frames = padded[:, 0][:, index] * torch.hann_window(length, device=signal.device)
    power = torch.fft.rfft(frames, n_fft).abs().square()
    # each bin belongs to the row it lies in
    frequency = torch.arange(power.shape[-1], device=signal.device) * (sfreq / n_fft)
    row = (frequency * (rows / max_frequency)).long()
    member = F.one_hot(row.clamp_max(rows), rows + 1)[:, :rows].float()
    summed = power @ (member / member.sum(0).clamp_min(1))
    floor = summed.amax().clamp_min(1e-30) * 1e-12
    return (10 * (summed + floor).log10()).transpose(1, 2).reshape(*signal.shape[:-1], rows, columns)
