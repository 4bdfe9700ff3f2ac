"""Recipe of AP-BWE: give back what a drawn low-pass took, judged by log-spectral distance on held-out speakers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.mixing import Recordings
from harken.data.narrowing import NarrowConfig, NarrowSpeech, validation_pairs
from harken.models._base import Model
from harken.models.enhance.ap_bwe import APBWE, APBWEConfig
from harken.score.extension import score_extension
from harken.signal.phase import phase_distance
from harken.signal.spectrum import compressed_complex
from harken.train.loop import Recipe
from harken.train.waveform_discriminators import (
    Opinion,
    WaveformDiscriminators,
    feature_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)


@dataclass(frozen=True)
class BandwidthWeights:
    """Weights of the terms of :class:`BandwidthLoss` and of the discriminators; the defaults are the paper's."""

    amplitude: float = 45.0
    phase: float = 100.0
    complex: float = 90.0
    consistency: float = 90.0
    adversarial: float = 1.0
    features: float = 1.0


class BandwidthLoss(nn.Module):
    """The spectral losses of AP-BWE: every term by name, and their weighted sum as ``total``.

    With wideband ``w``, output ``g`` and ``hat``, the spectrum of the output's waveform:
    ``amplitude = MSE(log|W|, log|G|)``; ``phase = IP + GD + IAF``; ``complex = MSE(com_w, com_g)``;
    ``consistency = MSE(com_g, com_hat)`` (arXiv 2401.06387, section III).
    """

    def __init__(self, weights: BandwidthWeights | None = None):
        super().__init__()
        self.weights = weights or BandwidthWeights()

    def forward(
        self,
        model: APBWE,
        wide: Float[Tensor, "batch samples"],
        log_amplitude: Float[Tensor, "batch bins frames"],
        phase: Float[Tensor, "batch bins frames"],
        waveform: Float[Tensor, "batch samples"],
    ) -> dict[str, Tensor]:
        """All terms.

        Args:
            model: whose spectra these are.
            wide: target waveforms.
            log_amplitude, phase: what the model returned.
            waveform: what they sound like.
        """
        wanted, wanted_phase = model.analyse(wide)
        both = compressed_complex(log_amplitude.exp(), phase)
        terms = {
            "amplitude": F.mse_loss(log_amplitude, wanted),
            "phase": phase_distance(wanted_phase, phase).total,
            "complex": F.mse_loss(both, compressed_complex(wanted.exp(), wanted_phase)),
        }
        if self.weights.consistency:
            again, again_phase = model.analyse(waveform)
            terms["consistency"] = F.mse_loss(both, compressed_complex(again.exp(), again_phase))
        total = sum((getattr(self.weights, name) * value for name, value in terms.items()), torch.zeros(()))
        return {**terms, "total": total}


class Made(NamedTuple):
    """What a step made: wideband waveforms, the model's spectra of the narrow ones, and their sound."""

    wide: Tensor
    log_amplitude: Tensor
    phase: Tensor
    waveform: Tensor


class BandwidthRecipe(Recipe):
    """AP-BWE on narrow and wide pairs.

    Args:
        config: of the model.
        wide: training recordings that fill the band.
        held_out: recordings of other speakers, for validation.
        narrow: how pairs are made.
        weights: of the losses.
        adversary_width: of the discriminators, relative to the paper's 41 million parameters; None for none of them.
        adversary_from: the step from which they take part.
        seed: of the initial weights.
        init: a trained model to start from.
        validation_items: how many held-out pairs of 2 s are scored.
    """

    adversary: WaveformDiscriminators | None
    score_name = "lsd"

    def __init__(
        self,
        config: APBWEConfig,
        wide: Recordings,
        held_out: Recordings | None = None,
        *,
        narrow: NarrowConfig | None = None,
        weights: BandwidthWeights | None = None,
        adversary_width: float | None = None,
        adversary_from: int = 0,
        seed: int = 0,
        init: APBWE | None = None,
        validation_items: int = 24,
    ):
        torch.manual_seed(seed)
        self.model: Any = init if init is not None else APBWE(config)
        self.wide = wide
        self.narrow = narrow or NarrowConfig(config.sample_rate, (config.source_rate,))
        self.loss = BandwidthLoss(weights)
        self.adversary = None if adversary_width is None else WaveformDiscriminators(adversary_width)
        self.adversary_from, self.adversary_width = adversary_from, adversary_width
        self.validation = validation_pairs(held_out or wide, self.narrow, validation_items)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Pairs of the training recordings."""
        return NarrowSpeech(self.wide, self.narrow, length=items, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Of model, recordings (how many, how long), pairs, losses and discriminators."""
        own = {
            "recordings": [len(self.wide), self.wide.seconds],
            "narrow": asdict(self.narrow),
            "weights": asdict(self.loss.weights),
            "adversary_width": self.adversary_width,
        }
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Made:
        """The extended spectra of a batch and their waveforms."""
        narrow, wide = batch
        log_amplitude, phase = model(*self.model.analyse(narrow))
        waveform = self.model.synthesise(log_amplitude, phase, wide.shape[-1])
        return Made(wide, log_amplitude.float(), phase.float(), waveform)

    def losses(self, made: Made, step: int) -> dict[str, Tensor]:
        """Every term of the generator's loss."""
        terms = self.loss(self.model, made.wide, made.log_amplitude, made.phase, made.waveform)
        if self.adversary is None or step < self.adversary_from:
            return terms
        pairs = _opinions(self.adversary, made.wide, made.waveform)
        shares = self.adversary.weights
        terms["adversarial"] = _weighted([hinge_generator_loss(fake) for _, fake in pairs], shares)
        terms["features"] = _weighted([feature_loss(real, fake) for real, fake in pairs], shares)
        weights = self.loss.weights
        total = terms["total"] + weights.adversarial * terms["adversarial"] + weights.features * terms["features"]
        return {**terms, "total": total}

    def adversary_losses(self, adversary: nn.Module, made: Made, step: int) -> dict[str, Tensor] | None:
        """Hinge losses of all discriminators, the spectral ones at a tenth."""
        if self.adversary is None or step < self.adversary_from:
            return None
        pairs = _opinions(adversary, made.wide, made.waveform.detach())
        return {"total": _weighted([hinge_discriminator_loss(*pair) for pair in pairs], self.adversary.weights)}

    def validate(self, model: Model) -> dict[str, float]:
        """Means over the held-out pairs, extended: see :func:`harken.score.extension.score_extension`."""
        device = next(model.parameters()).device
        made = []
        for narrow, _ in self.validation:
            made.append(model.extend(torch.from_numpy(narrow)[None].to(device))[0].float().cpu().numpy())  # type: ignore[operator]
        return self._scores(made)

    def score_of_input(self) -> dict[str, float]:
        """The same of the pairs as they are: resampled by a sinc filter, nothing added."""
        return self._scores([narrow for narrow, _ in self.validation])

    def score_of(self, extend: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The same of the pairs extended by anything else that maps ``(batch, samples)`` to the same."""
        return self._scores([extend(torch.from_numpy(narrow)[None])[0].numpy() for narrow, _ in self.validation])

    def _scores(self, made: list[np.ndarray]) -> dict[str, float]:
        rates = self.narrow.source_rates
        found = [
            score_extension(wide, estimate, self.narrow.sample_rate, above=rates[i % len(rates)] / 2)
            for i, ((_, wide), estimate) in enumerate(zip(self.validation, made, strict=True))
        ]
        return {name: float(np.mean([scores[name] for scores in found])) for name in found[0]}


def _opinions(adversary: nn.Module, wide: Tensor, made: Tensor) -> list[tuple[Opinion, Opinion]]:
    """What each discriminator says of both; one pass, as what prepares it for several processes expects."""
    return [opinion.halves() for opinion in adversary(torch.cat((wide, made.to(wide.dtype))))]


def _weighted(losses: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    return torch.stack([share * loss for share, loss in zip(shares, losses, strict=True)]).sum()
