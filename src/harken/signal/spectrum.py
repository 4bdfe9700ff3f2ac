"""Differentiable short-time Fourier transform with the compressed-magnitude spectra that enhancers use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError


class Spectrum(nn.Module):
    """Waveform to (magnitude, phase) and back.

    Magnitudes are compressed as ``|X| ** compression`` (0.3 in MP-SENet), which evens out a loss over loud and soft
    bins. The window is a periodic Hann window, frames are centred, edges reflected. Tiny offsets under the root and in
    the arctangent keep gradients finite in silent bins; the round trip stays within 1e-5.

    Args:
        n_fft: length of the transform in samples; ``n_fft // 2 + 1`` frequencies.
        hop_length: samples from one frame to the next.
        win_length: length of the window, ``n_fft`` when None.
        compression: exponent of the magnitude; 1 leaves it linear.
        offsets: False leaves the tiny offsets out: exact, but without a gradient in silent bins.

    Shape:
        - waveform: ``(batch, samples)``, any real unit
        - magnitude, phase: ``(batch, n_fft // 2 + 1, 1 + samples // hop_length)``; phase in radians, [-pi, pi]

    >>> spectrum = Spectrum(n_fft=400, hop_length=100)
    >>> x = torch.randn(1, 16000)
    >>> torch.allclose(spectrum.inverse(*spectrum(x), length=16000), x, atol=1e-5)
    True
    """

    window: Tensor

    def __init__(
        self,
        n_fft: int = 400,
        hop_length: int = 100,
        win_length: int | None = None,
        compression: float = 0.3,
        *,
        offsets: bool = True,
    ):
        super().__init__()
        win_length = n_fft if win_length is None else win_length
        if not 0 < hop_length <= win_length <= n_fft:
            raise InputError(f"expected hop_length <= win_length <= n_fft, got {hop_length}, {win_length}, {n_fft}")
        if compression <= 0:
            raise InputError(f"compression must be positive, got {compression}")
        self.n_fft, self.hop_length, self.win_length, self.compression = n_fft, hop_length, win_length, compression
        self.offsets = offsets
        self.register_buffer("window", torch.hann_window(win_length), persistent=False)

    def forward(
        self, waveform: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, "batch bins frames"], Float[Tensor, "batch bins frames"]]:
        """Compressed magnitude and wrapped phase.

        Raises:
            InputError: fewer samples than the reflected edges need (``n_fft // 2 + 1``).
        """
        if waveform.shape[-1] <= self.n_fft // 2:
            raise InputError(f"{waveform.shape[-1]} samples are too few for n_fft={self.n_fft}: pad with zeros first")
        bins = torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window.to(waveform.dtype),
            center=True,
            pad_mode="reflect",
            return_complex=True,
        )
        if not self.offsets:
            return bins.abs() ** self.compression, bins.angle()
        power = bins.real.square() + bins.imag.square() + 1e-9
        return power ** (0.5 * self.compression), torch.atan2(bins.imag + 1e-10, bins.real + 1e-5)

    def inverse(
        self,
        magnitude: Float[Tensor, "batch bins frames"],
        phase: Float[Tensor, "batch bins frames"],
        length: int | None = None,
    ) -> Float[Tensor, "batch samples"]:
        """Waveform of a compressed magnitude and a phase; pass ``length`` to get every sample back."""
        dtype = torch.promote_types(magnitude.dtype, torch.float32)  # there is no complex bfloat16
        linear = magnitude.to(dtype).clamp(min=0) ** (1 / self.compression)
        return torch.istft(
            torch.polar(linear, phase.to(dtype)),
            self.n_fft,
            self.hop_length,
            self.win_length,
            self.window.to(dtype),
            center=True,
            length=length,
        )

    def extra_repr(self) -> str:
        """The sizes."""
        return f"n_fft={self.n_fft}, hop_length={self.hop_length}, compression={self.compression}"


def compressed_complex(
    magnitude: Float[Tensor, "batch bins frames"], phase: Float[Tensor, "batch bins frames"]
) -> Float[Tensor, "batch bins frames 2"]:
    """Real and imaginary part of a spectrum whose magnitude is (and stays) compressed."""
    return torch.stack((magnitude * phase.cos(), magnitude * phase.sin()), -1)


def pad_to_frames(waveform: Float[Tensor, "batch samples"], n_fft: int) -> Float[Tensor, "batch padded"]:
    """Zeros appended to a waveform that is too short for one frame; longer ones come back as they are."""
    return F.pad(waveform, (0, max(0, n_fft - waveform.shape[-1])))
