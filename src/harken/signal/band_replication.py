"""Extension without learning: the upper band as copies of the one below it, ever softer (spectral band replication)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError
from harken.signal.spectrum import pad_to_frames


class BandReplication(nn.Module):
    """Copy the upper half of what is there upwards, patch by patch, with a slope: the baseline of every extender.

    Bin ``k`` above the edge takes the complex value of bin ``k - n p``, with ``p`` the size of a patch and the ``n``
    that brings it below the edge, at ``slope`` dB per octave less. With ``slope`` infinite nothing is added.

    Args:
        sample_rate: of input and output, Hz.
        source_rate: the input holds nothing above half of it, Hz.
        slope: dB per octave.

    >>> replicate = BandReplication(16000, 8000)
    >>> replicate.extend(torch.randn(1, 4000)).shape
    torch.Size([1, 4000])
    """

    n_fft = 512
    hop_length = 128
    context = 512  # samples on each side that a sample depends on

    def __init__(self, sample_rate: int = 16000, source_rate: int = 8000, slope: float = 12.0):
        super().__init__()
        if not 0 < source_rate < sample_rate:
            raise InputError(f"expected 0 < source_rate < sample_rate, got {source_rate} and {sample_rate}")
        self.sample_rate, self.source_rate, self.slope = sample_rate, source_rate, slope

    def extend(self, waveform: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
        """Waveforms with an upper band."""
        if math.isinf(self.slope):
            return waveform
        samples = waveform.shape[-1]
        padded = pad_to_frames(waveform, self.n_fft)
        window = torch.hann_window(self.n_fft, dtype=padded.dtype, device=padded.device)
        bins = torch.stft(padded, self.n_fft, self.hop_length, window=window, return_complex=True)
        # an anti-alias filter has thinned out the last tenth below the edge: it is neither kept nor copied
        edge = max(2, int(0.9 * self.source_rate / self.sample_rate * (self.n_fft // 2)))
        patch = edge // 2
        above = torch.arange(edge, bins.shape[1], device=bins.device)
        source = edge - patch + (above - edge) % patch
        gain = (above / source).pow(-self.slope / (20 * math.log10(2)))
        bins = torch.cat((bins[:, :edge], bins[:, source] * gain[:, None]), 1)
        return torch.istft(bins, self.n_fft, self.hop_length, window=window, length=padded.shape[-1])[:, :samples]
