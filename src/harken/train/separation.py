"""Recipe of separators: stems mixed anew for every item, a distance of waveforms, DiffQ where files must be small."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from harken.data.stem_mixing import MixedStems, StemConfig, StemPool, judged_stems
from harken.errors import InputError
from harken.layers.diffq import DiffQ, DiffQConfig, straight_through
from harken.models._base import Model
from harken.models.separate._separator import Separator, center_trim
from harken.score.distortion import snr
from harken.train.loop import Recipe


class Made(NamedTuple):
    """What a step made: stems and their estimates, of one length, and the model's size, MiB."""

    stems: Tensor
    estimates: Tensor
    size: Tensor | None = None


class SeparationRecipe(Recipe):
    """A separator on stems that are mixed anew for every item; L1 distance of waveforms (arXiv 1911.13254, section 5).

    Args:
        model: to train.
        pool: training stems, with the model's sources, rate and channels.
        held_out: of other tracks or people, for validation.
        mixing: how items are made; its length is made one that the model can take.
        loss: of waveforms: ``"l1"``, or ``"mse"``.
        diffq: the price of a MiB: the model learns how few bits its weights can do with (the paper: 3e-4).
        bits: plain uniform quantisation to so many bits instead, straight through.
        validation_items: how many held-out mixtures are separated and scored.
        validation_seconds: of each.

    Raises:
        InputError: a pool of other sources, rate or channels, or both kinds of quantisation.
    """

    model: Separator
    score_name = "sdr"
    higher_is_better = True

    def __init__(
        self,
        model: Separator,
        pool: StemPool,
        held_out: StemPool | None = None,
        *,
        mixing: StemConfig,
        loss: Literal["l1", "mse"] = "l1",
        diffq: float | None = None,
        quantisation: DiffQConfig | None = None,
        bits: int | None = None,
        validation_items: int = 24,
        validation_seconds: float = 4.0,
    ):
        expected = (model.sources, model.sample_rate, model.audio_channels)
        if (pool.sources, pool.sample_rate, pool.channels) != expected:
            raise InputError(f"expected stems {expected}, got {(pool.sources, pool.sample_rate, pool.channels)}")
        if diffq is not None and bits is not None:
            raise InputError("DiffQ and uniform quantisation exclude each other: choose one")
        if loss not in _LOSSES:
            raise InputError(f"loss is one of {', '.join(_LOSSES)}, got '{loss}'")
        if (diffq is not None or bits is not None) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise InputError("quantisation is learned in one process: start one")
        self.model = model
        self.pool, self.loss, self.diffq, self.fixed_bits = pool, loss, diffq, bits
        self.mixing = replace(mixing, samples=model.valid_length(mixing.samples))
        if diffq is not None and model.quantiser is None:
            model.quantiser = DiffQ(model, quantisation)
        self.uniform_names = DiffQ(model, quantisation).names if bits is not None else []
        judged = round(validation_seconds * model.sample_rate)
        self.validation = judged_stems(held_out or pool, judged, validation_items)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Mixed stems of the training pool."""
        return MixedStems(self.pool, self.mixing, length=items, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Of model, stems (how many, how long), mixing, loss and quantisation."""
        own = {
            "stems": [len(self.pool), round(self.pool.seconds, 3)],
            "mixing": asdict(self.mixing),
            "loss": self.loss,
            "diffq": self.diffq,
            "bits": self.fixed_bits,
        }
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Made:
        """The estimates of a batch, and the stems cut to them."""
        (stems,) = batch
        mix, quantiser, size = stems.sum(1), self.model.quantiser, None
        if quantiser is not None:
            estimates = functional_call(model, quantiser.noisy(self.model), (mix,))
            size = quantiser.size(self.model)
        elif self.fixed_bits is not None:
            weights = dict(self.model.named_parameters())
            coarse = {name: straight_through(weights[name], self.fixed_bits) for name in self.uniform_names}
            estimates = functional_call(model, coarse, (mix,))
        else:
            estimates = model(mix)
        return Made(center_trim(stems, estimates.shape[-1]), estimates, size)

    def losses(self, made: Made, step: int) -> dict[str, Tensor]:
        """The distance of the waveforms, and the price of the size."""
        distance = _LOSSES[self.loss](made.estimates.float(), made.stems)
        if made.size is None:
            return {self.loss: distance, "total": distance}
        return {self.loss: distance, "mib": made.size, "total": distance + (self.diffq or 0.0) * made.size}

    @torch.no_grad()
    def validate(self, model: Model) -> dict[str, float]:
        """Signal-to-distortion ratio of the held-out mixtures' sources, quantised where that is learned."""
        assert isinstance(model, Separator)
        if model.quantiser is not None:
            with model.quantiser.quantised(model):
                found = self.score_of(model.separate)
            return {**found, "mib": model.quantiser.true_size(model)}
        if self.fixed_bits is not None:
            weights = dict(model.named_parameters())
            kept = {name: weights[name].detach().clone() for name in self.uniform_names}
            for name in kept:
                weights[name].copy_(straight_through(weights[name], self.fixed_bits))
            found = self.score_of(model.separate)
            for name, weight in kept.items():
                weights[name].copy_(weight)
            return found
        return self.score_of(model.separate)

    def score_of_input(self) -> dict[str, float]:
        """The same of the mixtures themselves, in the place of every source."""
        return self.score_of(lambda mix: mix[:, None].expand(-1, len(self.pool.sources), -1, -1))

    @torch.no_grad()
    def score_of(self, separate: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The same of anything that maps ``(batch, channels, samples)`` to ``(batch, sources, channels, samples)``.

        A source that is silent in a mixture is not scored there.
        """
        parameter = next(self.model.parameters())
        found: list[list[float]] = []
        for stems in self.validation:
            made = separate(torch.from_numpy(stems.sum(0))[None].to(parameter.device))[0].float().cpu().numpy()
            loudest = np.square(stems).sum((1, 2)).max()
            pairs = zip(stems, made, strict=True)
            found.append(
                [snr(s.ravel(), e.ravel()) if np.square(s).sum() > 1e-4 * loudest else np.nan for s, e in pairs]
            )
        by_source = np.nanmean(np.array(found), 0)
        names = (f"sdr_{source}" for source in self.pool.sources)
        return {"sdr": float(np.nanmean(by_source)), **dict(zip(names, map(float, by_source), strict=True))}


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l1": F.l1_loss, "mse": F.mse_loss}
