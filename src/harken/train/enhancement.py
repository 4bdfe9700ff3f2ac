"""Recipe of speech enhancers: denoise mixtures made on the fly, judged by WB-PESQ on held-out speakers and noises."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.mixing import MixConfig, NoisySpeech, Recordings
from harken.models._base import Model
from harken.models.enhance.codec import SpectrumEnhancer
from harken.score.distortion import si_sdr
from harken.score.perceptual import pesq_wb
from harken.train.loop import Recipe
from harken.train.losses import EnhancementLoss, EnhancementWeights
from harken.train.metric_discriminator import MetricDiscriminator


class Made(NamedTuple):
    """What a step made: normalised clean waveforms, and the model's spectra of the noisy ones."""

    clean: Tensor
    magnitude: Tensor
    phase: Tensor
    heard: Heard | None = None


class Heard(NamedTuple):
    """What a metric discriminator judges: the output's waveform, and the magnitudes of clean and output waveforms."""

    waveform: Tensor
    reference: Tensor
    estimate: Tensor


class EnhancementRecipe(Recipe):
    """An enhancer of spectra on noisy/clean mixtures.

    Args:
        model: new, or trained already.
        clean, noise: training recordings.
        held_out: clean and noise recordings of other speakers and other noises, for validation.
        mix: how pairs are made.
        weights: of the losses.
        adversary_from: the step from which a metric discriminator learns PESQ and scores the output; None for never.
        adversary_every: it learns every so many steps (PESQ is slow); the generator hears it at every step.
        rooms: room impulse responses, when ``mix.reverb`` or ``mix.noise_reverb`` asks for them.
        validation_items: how many held-out mixtures are scored.
        processes: worker processes for PESQ, 0 to compute it here.
    """

    score_name = "pesq_wb"
    higher_is_better = True

    def __init__(
        self,
        model: SpectrumEnhancer,
        clean: Recordings,
        noise: Recordings | None,
        held_out: tuple[Recordings, Recordings | None] | None = None,
        *,
        mix: MixConfig | None = None,
        weights: EnhancementWeights | None = None,
        adversary_from: int | None = None,
        adversary_every: int = 1,
        rooms: Sequence[np.ndarray] = (),
        validation_items: int = 24,
        processes: int = 0,
    ):
        self.model: Any = model
        rate = model.sample_rate
        self.clean, self.noise, self.rooms = clean, noise, rooms
        self.mix = mix or MixConfig(sample_rate=rate)
        self.loss = EnhancementLoss(self.model.spectrum, rate, weights)
        self.adversary = None if adversary_from is None else MetricDiscriminator()
        self.adversary_from = adversary_from or 0
        self.adversary_every = adversary_every
        self.validation = validation_pairs(held_out or (clean, noise), self.mix, validation_items)
        context = get_context("spawn")
        self.pool: Executor | None = ProcessPoolExecutor(processes, mp_context=context) if processes else None

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Mixtures of the training recordings."""
        return NoisySpeech(self.clean, self.noise, self.mix, length=items, seed=seed, rooms=self.rooms)

    def settings(self) -> dict[str, Any]:
        """Of model, recordings (how many, how long), mixtures and losses; a discriminator may join a run later."""
        sources = {"clean": self.clean, "noise": self.noise}
        recordings = {name: source and [len(source), source.seconds] for name, source in sources.items()}
        weights = asdict(self.loss.weights)
        own = {"recordings": recordings, "mix": asdict(self.mix), "weights": weights, "rooms": len(self.rooms)}
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Made:
        """The enhanced spectra of a batch, at the level that makes the noisy waveforms' RMS one."""
        noisy, clean = normalise(*batch)
        self.loss.to(noisy.device)
        magnitude, phase = model(*self.loss.spectrum(noisy))
        if not self._judges(step):
            return Made(clean, magnitude, phase)
        waveform = self.loss.spectrum.inverse(magnitude, phase, clean.shape[-1])
        heard = Heard(waveform, self.loss.spectrum(clean)[0], self.loss.spectrum(waveform)[0])
        return Made(clean, magnitude, phase, heard)

    def losses(self, made: Made, step: int) -> dict[str, Tensor]:
        """Every term of the generator's loss."""
        opinion = None
        if self.adversary is not None and made.heard is not None:
            opinion = self.adversary(made.heard.reference, made.heard.estimate)
        return self.loss(made.clean, made.magnitude, made.phase, opinion)

    def adversary_losses(self, adversary: nn.Module, made: Made, step: int) -> dict[str, Tensor] | None:
        """Score 1 for clean against clean, normalised PESQ for the output; the second is skipped if PESQ fails."""
        if made.heard is None or step % self.adversary_every:
            return None
        reference, estimate = made.heard.reference, made.heard.estimate.detach()
        # one pass for both halves: what prepares a discriminator for several processes expects one pass a step
        real, judged = adversary(torch.cat((reference, reference)), torch.cat((reference, estimate)))[:, 0].chunk(2)
        total = F.mse_loss(real, torch.ones_like(real))
        quality = self._pesq(made.clean, made.heard.waveform.detach())
        if np.isfinite(quality).all():
            target = torch.as_tensor((quality - 1) / 3.5, dtype=real.dtype, device=real.device)
            total = total + F.mse_loss(judged, target)
        return {"total": total}

    def _judges(self, step: int) -> bool:
        return self.adversary is not None and step >= self.adversary_from

    def _pesq(self, clean: Tensor, waveform: Tensor) -> np.ndarray:
        rows = list(zip(clean.cpu().numpy(), waveform.float().cpu().numpy(), strict=True))
        return np.array(_map(self.pool, _pesq_of, [(*row, self.mix.sample_rate) for row in rows]))

    def validate(self, model: Model) -> dict[str, float]:
        """WB-PESQ and SI-SDR of the held-out mixtures, enhanced."""
        device = next(model.parameters()).device
        enhanced = []
        for noisy, _ in self.validation:
            enhanced.append(model.enhance(torch.from_numpy(noisy)[None].to(device))[0].cpu().numpy())  # type: ignore[operator]
        return self._scores([(clean, made) for (_, clean), made in zip(self.validation, enhanced, strict=True)])

    def score_of_input(self) -> dict[str, float]:
        """The same metrics of the held-out mixtures as they are."""
        return self._scores([(clean, noisy) for noisy, clean in self.validation])

    def _scores(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        quality = _map(self.pool, _pesq_of, [(*pair, self.mix.sample_rate) for pair in pairs])
        distances = [float(si_sdr(torch.from_numpy(c)[None], torch.from_numpy(e)[None])[0]) for c, e in pairs]
        return {"pesq_wb": float(np.nanmean(quality)), "si_sdr": float(np.mean(distances))}


def normalise(noisy: Tensor, clean: Tensor) -> tuple[Tensor, Tensor]:
    """Both at the level that makes the noisy waveform's RMS one."""
    level = noisy.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
    return noisy / level, clean / level


def validation_pairs(
    held_out: tuple[Recordings, Recordings | None], mix: MixConfig, items: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Fixed mixtures of 4 s at 0, 5, 10 and 15 dB in turn; a fourth of them (all without recorded noise) babble."""
    pairs = []
    for i in range(items):
        snr = (0.0, 5.0, 10.0, 15.0)[i % 4]
        babble = 1.0 if i % 4 == i // 4 % 4 or held_out[1] is None else 0.0
        plain = MixConfig(
            sample_rate=mix.sample_rate, seconds=4.0, snr=(snr, snr), babble=babble, synthetic=0.0, second_noise=0.0,
            tilt=0.0, speech_tilt=0.0, speed=(1.0, 1.0), band_limit=0.0, clip=0.0,
        )  # fmt: skip
        pairs.append(NoisySpeech(held_out[0], held_out[1], plain, length=items, seed=20_000)[i])
    return pairs


def _pesq_of(job: tuple[np.ndarray, np.ndarray, int]) -> float:
    return pesq_wb(*job)


def _map(pool: Executor | None, function: Any, jobs: list[Any]) -> list[float]:
    return list(map(function, jobs) if pool is None else pool.map(function, jobs))
