"""Losses of speech enhancers: spectra, phases, consistency, waveform, and a differentiable loudness distance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError
from harken.signal.phase import phase_distance
from harken.signal.spectrum import Spectrum, compressed_complex


@dataclass(frozen=True)
class EnhancementWeights:
    """Weights of the terms of :class:`EnhancementLoss`; the defaults are those of MP-SENet's released training code."""

    magnitude: float = 0.9
    phase: float = 0.3
    complex: float = 0.1
    consistency: float = 0.1
    metric: float = 0.05
    time: float = 0.2
    loudness: float = 0.0

    @classmethod
    def short_training(cls) -> Self:
        """For thousands of steps rather than hundreds of thousands: less on the phase of bins that hold no speech."""
        return cls(magnitude=1.0, phase=0.1, complex=0.5, consistency=0.1, time=0.2, loudness=0.5)


class EnhancementLoss(nn.Module):
    """The generator's loss of MP-SENet: every term by name, and their weighted sum as ``total``.

    With clean ``c``, output ``g`` and ``hat``, the spectrum of the output waveform:
    ``magnitude = MSE(mag_c, mag_g)``; ``phase = IP + GD + IAF``; ``complex = 2 MSE(com_c, com_g)``;
    ``consistency = 2 MSE(com_g, com_hat)``; ``time = L1(wave_c, wave_g)``; ``metric = MSE(score, 1)``;
    ``loudness``: :class:`LoudnessDistance`, our addition, off by default.
    """

    def __init__(self, spectrum: Spectrum, sample_rate: int = 16000, weights: EnhancementWeights | None = None):
        super().__init__()
        self.spectrum = spectrum
        self.weights = weights or EnhancementWeights()
        self.loudness = LoudnessDistance(sample_rate) if self.weights.loudness else None

    def forward(
        self,
        clean: Float[Tensor, "batch samples"],
        magnitude: Float[Tensor, "batch bins frames"],
        phase: Float[Tensor, "batch bins frames"],
        metric_score: Float[Tensor, "batch 1"] | None = None,
    ) -> dict[str, Tensor]:
        """All terms.

        Args:
            clean: target waveforms, at the level the model saw.
            magnitude, phase: what the model returned, compressed magnitude.
            metric_score: the metric discriminator's opinion of the output, when there is one.
        """
        clean_magnitude, clean_phase = self.spectrum(clean)
        waveform = self.spectrum.inverse(magnitude, phase, clean.shape[-1])
        both = compressed_complex(magnitude, phase)
        terms = {
            "magnitude": F.mse_loss(clean_magnitude, magnitude),
            "phase": phase_distance(clean_phase, phase).total,
            "complex": 2 * F.mse_loss(compressed_complex(clean_magnitude, clean_phase), both),
            "time": F.l1_loss(clean, waveform),
        }
        if self.weights.consistency:
            terms["consistency"] = 2 * F.mse_loss(both, compressed_complex(*self.spectrum(waveform)))
        if metric_score is not None:
            terms["metric"] = F.mse_loss(metric_score, torch.ones_like(metric_score))
        if self.loudness is not None:
            terms["loudness"] = self.loudness(clean, waveform)
        total = sum((getattr(self.weights, name) * value for name, value in terms.items()), torch.zeros(()))
        return {**terms, "total": total}


class LoudnessDistance(nn.Module):
    """How much louder or softer each critical band sounds, in sone: a differentiable relative of what PESQ measures.

    Power spectra (32 ms Hann frames) are summed into bands of about half a Bark, brought to the level of speech, turned
    into Zwicker loudness ``(P0 / 0.5)^0.23 ((0.5 + 0.5 P / P0)^0.23 - 1)``, and compared: ``D`` is ``|d|`` beyond a
    dead zone, ``A`` the part of it that was added where the reference is quiet (an enhancer's musical noise). Frames
    are weighted by their level and capped, gathered over a third of a second by a sixth power, so that the worst
    moments count, and over the whole by a square. The distance is ``0.1 D + asymmetry A``. Bands after Traunmueller
    (1990); the structure after ITU-T P.862, without its alignment in time, its tables, and its compensation of gain
    and colour: a model that is trained with it learns to use that, and loses the waveform.

    Shape: two waveforms ``(batch, samples)`` to a scalar.
    """

    bands: Tensor
    threshold: Tensor
    window: Tensor

    def __init__(self, sample_rate: int = 16000, count: int = 42, asymmetry: float = 0.0309):
        super().__init__()
        self.n_fft = 2 ** math.ceil(math.log2(0.032 * sample_rate))
        self.hop_length = self.n_fft // 2
        self.asymmetry = asymmetry
        frequencies = torch.linspace(0, sample_rate / 2, self.n_fft // 2 + 1)
        bark = 26.81 * frequencies / (1960 + frequencies) - 0.53
        edges = torch.linspace(0.5, float(bark[-1]), count + 1)
        member = (bark[None] >= edges[:-1, None]) & (bark[None] < edges[1:, None])
        member = member[member.any(1)]
        centres = (member * frequencies).sum(1) / member.sum(1)
        kilohertz = centres.clamp(min=50) / 1000
        # absolute threshold of hearing (Terhardt 1979), in dB, then as power
        decibel = 3.64 * kilohertz**-0.8 - 6.5 * torch.exp(-0.6 * (kilohertz - 3.3) ** 2) + 1e-3 * kilohertz**4
        self.register_buffer("bands", member.float(), persistent=False)
        self.register_buffer("threshold", 10 ** (decibel.clamp(max=60) / 10), persistent=False)
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)

    def forward(self, reference: Float[Tensor, "batch samples"], estimate: Float[Tensor, "batch samples"]) -> Tensor:
        """Their distance; not symmetric.

        Raises:
            InputError: fewer samples than one frame.
        """
        if reference.shape[-1] < self.n_fft:
            raise InputError(f"{reference.shape[-1]} samples are too few for the loudness of {self.n_fft}: give more")
        level = reference.square().mean(-1, keepdim=True).clamp(min=1e-8)
        both = torch.cat((reference, estimate)) / torch.cat((level, level)).sqrt()
        spectrum = torch.stft(
            both, self.n_fft, self.hop_length, window=self.window.to(both.dtype), center=False, return_complex=True
        )
        power = spectrum.real.square() + spectrum.imag.square()
        # a full-scale frame of speech at its mean level stands for about 70 dB
        excitation = (self.bands @ power) * (1e7 / (self.n_fft * 0.375 * self.n_fft / 8))
        wanted_power, got_power = excitation.chunk(2)
        wanted, got = self._loudness(wanted_power), self._loudness(got_power)
        disturbance = F.relu((got - wanted).abs() - 0.25 * torch.minimum(got, wanted))
        added = ((got_power + 50) / (wanted_power + 50)) ** 1.2
        weight = ((wanted_power.sum(1) + 1e5) / 1e7) ** -0.04
        symmetric = (disturbance.square().mean(1) + 1e-8).sqrt() * weight
        asymmetric = (disturbance * added.clamp(max=12) * (added > 3)).mean(1) * weight
        return (0.1 * _over_time(symmetric) + self.asymmetry * _over_time(asymmetric)).mean()

    def _loudness(self, power: Tensor) -> Tensor:
        """Sone; what lies below the threshold is not heard: no loudness, rather than a negative one."""
        p0 = self.threshold[:, None]
        return F.relu((p0 / 0.5) ** 0.23 * ((0.5 + 0.5 * power / p0) ** 0.23 - 1))


def _over_time(frames: Tensor) -> Tensor:
    """``(batch, frames)`` to ``(batch,)``: sixth power within 20 frames (half overlapping), square over these."""
    size = min(20, frames.shape[-1])
    parts = frames.clamp(max=45.0).unfold(-1, size, max(1, size // 2))
    return ((parts.pow(6).mean(-1) + 1e-21).pow(1 / 3).mean(-1)).sqrt()
