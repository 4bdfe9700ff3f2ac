"""Recipe of AT-AT: clean epochs made dirty, an autoencoder first, then all of it with a critic."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import Dataset

from harken.data.eeg_noise import DirtyEpochs, NoiseConfig, artefacts, mixed
from harken.models._base import Model
from harken.models.brain.denoiser import Denoised, DenoiserConfig, EEGDenoiser
from harken.score.denoising import score_denoising
from harken.signal.correlation import correlation
from harken.train.loop import Recipe

JUDGED_SNRS = (-7.0, -5.0, -3.0, -1.0, 0.0, 2.0)


class EpochCritic(nn.Module):
    """Whether an epoch looks like clean EEG: four strided convolutions with spectral norms, a value a stretch."""

    def __init__(self, width: int = 16):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 1
        for number in range(4):
            wider = width * 2 ** min(number, 2)
            layers += [spectral_norm(nn.Conv1d(channels, wider, 9, 2, 4)), nn.LeakyReLU(0.2)]
            channels = wider
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv1d(channels, 1, 5, padding=2)))

    def forward(self, epochs: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch stretches"]:
        """Higher for cleaner."""
        return self.layers(epochs[:, None])[:, 0]


class Step(NamedTuple):
    """A batch of clean epochs and what was made of their dirty twins."""

    clean: Tensor
    made: Denoised


class DenoiserRecipe(Recipe):
    """``MSE + 0.1 (1 - correlation)`` of the result, ``MSE`` of the autoencoder, 0.01 of the critic.

    Args:
        config: of the model.
        clean: training epochs, ``(epochs, samples)``, see :func:`harken.data.eeg_noise.clean_epochs`.
        held_out: of other people.
        noise: how epochs are made dirty.
        autoencoder_steps: in which the autoencoder learns alone.
        adversarial: weight of the critic, 0 for none.
        seed: of the initial weights and of the held-out pairs.
        init: a trained model to go on from.
    """

    adversary: EpochCritic | None
    score_name = "correlation"
    higher_is_better = True

    def __init__(
        self,
        config: DenoiserConfig,
        clean: Float[np.ndarray, "epochs samples"],
        held_out: Float[np.ndarray, "epochs samples"],
        *,
        noise: NoiseConfig | None = None,
        autoencoder_steps: int = 300,
        adversarial: float = 0.01,
        seed: int = 0,
        init: EEGDenoiser | None = None,
    ):
        torch.manual_seed(seed)
        self.model: Any = init if init is not None else EEGDenoiser(config)
        self.adversary = EpochCritic() if adversarial else None
        self.clean, self.noise = clean, noise or NoiseConfig(sfreq=config.sfreq)
        self.autoencoder_steps, self.adversarial = autoencoder_steps, adversarial
        self.pairs = held_out_pairs(held_out, self.noise, seed)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Dirty and clean twins."""
        return DirtyEpochs(self.clean, self.noise, length=items, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Of model, epochs, noise and losses."""
        own = {
            "epochs": len(self.clean),
            "noise": asdict(self.noise),
            "autoencoder_steps": self.autoencoder_steps,
            "adversarial": self.adversarial,
        }
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Step:
        """The denoised batch."""
        dirty, clean = batch
        return Step(clean, model(dirty))

    def losses(self, made: Step, step: int) -> dict[str, Tensor]:
        """Every term."""
        clean, (result, coarse, _) = made
        terms = {"autoencoder": F.mse_loss(coarse, clean)}
        total = terms["autoencoder"]
        if step >= self.autoencoder_steps:
            terms["mse"] = F.mse_loss(result, clean)
            terms["correlation"] = 1 - correlation(result, clean).mean()
            total = total + terms["mse"] + 0.1 * terms["correlation"]
            if self.adversary is not None:
                terms["adversarial"] = -self.adversary(result).mean()
                total = total + self.adversarial * terms["adversarial"]
        else:  # so that every parameter has a gradient in every process
            total = total + 0.0 * result.sum()
        return {**terms, "total": total}

    def adversary_losses(self, adversary: nn.Module, made: Step, step: int) -> dict[str, Tensor] | None:
        """Hinge."""
        if step < self.autoencoder_steps:
            return None
        real, fake = adversary(made.clean), adversary(made.made.clean.detach())
        return {"total": F.relu(1 - real).mean() + F.relu(1 + fake).mean()}

    @torch.inference_mode()
    def validate(self, model: Model) -> dict[str, float]:
        """Means over all ratios, and the correlation at the lowest and the highest."""
        device = next(model.parameters()).device
        return self.score_of(lambda dirty: model(torch.from_numpy(dirty).to(device)).clean.cpu().numpy())

    def score_of(self, denoise: Any) -> dict[str, float]:
        """The same of anything that maps dirty epochs ``(epochs, samples)`` to clean ones."""
        found = {snr: score_denoising(clean, denoise(dirty)) for snr, (dirty, clean) in self.pairs.items()}
        lowest, highest = min(found), max(found)
        return {
            **{name: float(np.mean([scores[name] for scores in found.values()])) for name in found[lowest]},
            f"correlation_at_{lowest:g}dB": found[lowest]["correlation"],
            f"correlation_at_{highest:g}dB": found[highest]["correlation"],
        }


def held_out_pairs(
    epochs: Float[np.ndarray, "epochs samples"], noise: NoiseConfig, seed: int, most: int = 200
) -> dict[float, tuple[Float[np.ndarray, "epochs samples"], Float[np.ndarray, "epochs samples"]]]:
    """Dirty and clean epochs at each of :data:`JUDGED_SNRS`, the same clean ones at every ratio."""
    generator = torch.Generator().manual_seed(seed + 77)
    chosen = torch.randperm(len(epochs), generator=generator)[:most].sort().values.numpy()
    clean = epochs[chosen].astype(np.float64)
    made = artefacts(noise, len(clean), clean.shape[1], generator)
    pairs = {}
    for snr in JUDGED_SNRS:
        dirty = mixed(clean, made, snr, noise.snr)
        size = dirty.std(1, keepdims=True)
        pairs[snr] = ((dirty / size).astype(np.float32), (clean / size).astype(np.float32))
    return pairs
