"""What brain decoders compare signals with: log-mel bands and envelopes of speech, at the rate of the brain signal."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.signal.mel import mel_filters


def log_mel(
    waveform: Float[Tensor, "*batch samples"],
    sample_rate: int,
    *,
    bands: int = 40,
    n_fft: int = 512,
    hop_length: int = 160,
    floor: float = 1e-5,
) -> Float[Tensor, "*batch bands frames"]:
    """``log(mel |STFT|^2 + floor)`` of a Hann window, a frame every ``hop_length`` samples, the first at time 0.

    Args:
        waveform: full scale is [-1, 1].
        sample_rate: Hz.
        bands, n_fft, hop_length, floor: of the spectra; the paper of ``brain-speech-decoding`` takes 120 bands of 512.

    >>> log_mel(torch.zeros(1, 1600), 16000).shape
    torch.Size([1, 40, 11])
    """
    flat = waveform.reshape(-1, waveform.shape[-1]).float()
    window = torch.hann_window(n_fft, device=flat.device)
    bins = torch.stft(flat, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True)
    power = bins.real.square() + bins.imag.square()
    mel = (mel_filters(bands, n_fft, sample_rate).to(flat.device) @ power + floor).log()
    return mel.reshape(*waveform.shape[:-1], *mel.shape[1:])


def speech_envelope(
    waveform: Float[Tensor, "*batch samples"], sample_rate: int, sfreq: float, *, power: float = 0.3
) -> Float[Tensor, "*batch frames"]:
    """How loud speech is from moment to moment: band powers, compressed as the cochlea does, summed.

    ``sum_b P_b ** power`` over 28 mel bands of 25 ms, taken ``sfreq`` times a second; the bands make it follow what is
    heard rather than the loudest partial.

    Raises:
        InputError: ``sfreq`` is not between 0 and a quarter of the rate.

    >>> speech_envelope(torch.randn(16000), 16000, 64.0).shape
    torch.Size([64])
    """
    if not 0 < sfreq <= sample_rate / 4:
        raise InputError(f"expected an envelope's rate between 0 and {sample_rate / 4:g} Hz, got {sfreq:g}")
    # four frames for each that is kept, averaged: nothing faster than the rate folds back
    hop = max(1, round(sample_rate / (4 * sfreq)))
    bands = log_mel(waveform, sample_rate, bands=28, n_fft=512, hop_length=hop, floor=1e-10)
    fine = (power * bands).exp().sum(-2)
    count = int(waveform.shape[-1] * sfreq / sample_rate)
    smooth = torch.nn.functional.avg_pool1d(fine.reshape(-1, 1, fine.shape[-1]), 5, 1, 2, count_include_pad=False)
    return frames_at(smooth.reshape(fine.shape), sample_rate / hop, sfreq, count)


def frames_at(
    frames: Float[Tensor, "*batch frames"], rate: float, target: float, count: int
) -> Float[Tensor, "*batch count"]:
    """Frames at another rate by taking the nearest; the last is repeated where too few are left.

    >>> frames_at(torch.arange(4.0), 2.0, 4.0, 8).tolist()
    [0.0, 0.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]
    """
    index = (torch.arange(count, dtype=torch.float64) * (rate / target)).round().long()
    return frames[..., index.clamp_max(frames.shape[-1] - 1).to(frames.device)]
