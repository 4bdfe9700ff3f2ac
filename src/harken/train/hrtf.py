"""Recipe of HRTFformer: a few directions of a listener to all of them, judged by log-spectral distance on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.hrtf import HRIRs, angles_between, magnitudes, spread_directions
from harken.errors import InputError
from harken.models._base import Model
from harken.models.enhance.hrtf_baselines import BASELINES, Listeners, Measured, learned_penalty
from harken.models.enhance.hrtfformer import HRTFformer, HRTFformerConfig
from harken.score.hrtf import (
    Neighbours,
    angular_neighbours,
    dissimilarity,
    level_difference_error,
    neighbour_dissimilarity,
    spectral_distortion,
)
from harken.signal.spherical_harmonics import SphericalFit, real_spherical_harmonics
from harken.train.loop import Recipe

FINE = 2  # frequencies for each of the model's, for fields that are stretched along frequency
STRETCHES = 5  # steps from squeezed to stretched


@dataclass(frozen=True)
class HRTFItems:
    """How items are drawn.

    Attributes:
        points: fewest and most measured directions; the number is drawn evenly in its logarithm. One number twice is
            the paper's way, always the same directions.
        stretch: largest factor by which frequency is stretched or squeezed: listeners differ in size.
        directions: how many of the field a step looks at; other ones at each.
        mix: share of items that are between two listeners.
        mirror: half of the items have left and right exchanged.
    """

    points: tuple[int, int] = (3, 100)
    stretch: float = 1.08
    mix: float = 0.5
    mirror: bool = True
    directions: int = 400

    def __post_init__(self) -> None:
        if not 1 <= self.points[0] <= self.points[1]:
            raise InputError(f"expected 1 <= fewest <= most points, got {self.points}")
        if not 1 <= self.stretch <= 2 or not 0 <= self.mix <= 1:
            raise InputError("expected a stretch of 1 to 2 and a mix of 0 to 1")


@dataclass(frozen=True)
class HRTFWeights:
    """Weights of the losses; the defaults are the paper's, but for the neighbours', which it gives 1."""

    content: float = 1.0
    neighbours: float = 0.1


class ListenerFields(Dataset[Any]):
    """Listeners on one grid: coefficients of a few directions in, the whole field out, both around the mean.

    Args:
        listeners: training listeners, all on one grid.
        config: of the model.
        items: how they are drawn.
        length: how many.
        seed: of the draw; an item depends on it and its index alone.
    """

    def __init__(self, listeners: Sequence[HRIRs], config: HRTFformerConfig, items: HRTFItems, length: int, seed: int):
        self.config, self.items, self.length, self.seed = config, items, length, seed
        self.directions = one_grid(listeners)
        fine = torch.arange(1, FINE * config.bins + FINE + 1) * (config.sample_rate / config.n_fft / FINE)
        factors = np.exp(np.linspace(-1, 1, STRETCHES) * np.log(items.stretch)) if items.stretch > 1 else np.ones(1)
        # half precision: a hundredth of a dB, for a hundred megabytes of a few dozen listeners
        self.drawn = np.stack([self._stretched(magnitudes(one, fine.numpy()), factors) for one in listeners])
        self.mirrored = mirror_index(self.directions) if items.mirror else None
        self.mean: Tensor | None = None
        self.fit: SphericalFit | None = None

    def fields(self) -> Float[Tensor, "listeners directions values"]:
        """Every listener at the model's frequencies."""
        return torch.from_numpy(self.drawn[:, self.drawn.shape[1] // 2].astype(np.float32))

    def _stretched(
        self, fine: Float[np.ndarray, "directions fine"], factors: Float[np.ndarray, " factors"]
    ) -> Float[np.ndarray, "factors directions values"]:
        """A field at the model's frequencies, stretched along frequency by each factor."""
        ears = fine.reshape(len(fine), 2, -1)
        made = []
        for factor in factors:
            place = np.clip(np.arange(1, self.config.bins + 1) * FINE * factor - 1, 0, ears.shape[-1] - 1)
            below = np.minimum(place.astype(int), ears.shape[-1] - 2)
            share = place - below
            between = ears[..., below] * (1 - share) + ears[..., below + 1] * share
            made.append(between.reshape(len(fine), -1).astype(np.float16))
        return np.stack(made)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        assert self.fit is not None and self.mean is not None
        rng = np.random.default_rng((self.seed, index))
        field = self._draw(rng)
        if rng.random() < self.items.mix:
            share = np.float32(rng.uniform(0, 0.5))
            field = (1 - share) * field + share * self._draw(rng)
        residual = torch.from_numpy(field) - self.mean
        points = torch.from_numpy(self._points(rng))
        return self.fit.pick(points).coefficients(residual[points]), residual

    def _draw(self, rng: np.random.Generator) -> Float[np.ndarray, "directions values"]:
        """A listener, stretched, and perhaps in a mirror."""
        one = self.drawn[rng.integers(len(self.drawn)), rng.integers(self.drawn.shape[1])]
        if self.mirrored is not None and rng.random() < 0.5:
            half = one.shape[-1] // 2
            one = np.concatenate((one[self.mirrored, half:], one[self.mirrored, :half]), -1)
        return one.astype(np.float32)

    def _points(self, rng: np.random.Generator) -> Int[np.ndarray, " points"]:
        fewest, most = self.items.points
        if fewest == most:
            return spread_directions(self.directions, fewest)
        count = round(float(np.exp(rng.uniform(np.log(fewest), np.log(most)))))
        # far from one another among some, so that no two draws are alike
        some = rng.permutation(len(self.directions))[: max(count, len(self.directions) // 3)]
        return some[spread_directions(self.directions[some], count)]


def one_grid(listeners: Sequence[HRIRs]) -> Float[np.ndarray, "directions 2"]:
    """The directions that all listeners share, in their order.

    Raises:
        InputError: no listeners, or not one grid.
    """
    if not listeners:
        raise InputError("no listeners to learn from")
    first = listeners[0].directions
    for one in listeners[1:]:
        if one.directions.shape != first.shape or angles_of_pairs(one.directions, first).max() > 0.1:
            raise InputError(
                f"'{one.name}' was measured in other directions than '{listeners[0].name}': one grid, please"
            )
    return first


def angles_of_pairs(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees between directions, one by one."""
    return np.array([angles_between(a[None], b[None])[0, 0] for a, b in zip(one, other, strict=True)])


def mirror_index(directions: Float[np.ndarray, "directions 2"]) -> np.ndarray | None:
    """For each direction the one in which a mirror shows it; None where the grid has no such pairs."""
    seen = directions * np.array([-1.0, 1.0])
    angles = angles_between(seen, directions)
    return angles.argmin(-1) if angles.min(-1).max() < 0.1 else None


class Made(NamedTuple):
    """What a step made: dense coefficients, the fields that they should make, and the directions to look at."""

    coefficients: Tensor
    wanted: Tensor
    some: Tensor


class HRTFRecipe(Recipe):
    """HRTFformer on listeners measured on one grid.

    Args:
        config: of the model; its number of directions has to be the listeners', or 0.
        listeners: to train on.
        held_out: to judge on; their measured directions are spread as far as they go.
        items: how items are drawn.
        weights: of the losses.
        seed: of the initial weights.
        init: a trained model to start from.
        judged_points: numbers of measured directions at which held-out listeners are judged.
    """

    score_name = "lsd"

    def __init__(
        self,
        config: HRTFformerConfig,
        listeners: Sequence[HRIRs],
        held_out: Sequence[HRIRs],
        *,
        items: HRTFItems | None = None,
        weights: HRTFWeights | None = None,
        seed: int = 0,
        init: HRTFformer | None = None,
        judged_points: Sequence[int] = (5, 19, 27),
    ):
        self.items, self.weights = items or HRTFItems(), weights or HRTFWeights()
        self.data = ListenerFields(listeners, config, self.items, 1, 0)
        self.directions = torch.from_numpy(self.data.directions)
        if config.directions not in (0, len(self.directions)):
            raise InputError(
                f"the model keeps {config.directions} directions, the listeners have {len(self.directions)}"
            )
        if self.items.points[1] > len(self.directions):
            raise InputError(f"{self.items.points[1]} points of {len(self.directions)} directions cannot be measured")
        torch.manual_seed(seed)
        self.model: Any = init if init is not None else HRTFformer(config)
        fields = self.data.fields()
        self.listeners = Listeners(fields, self.directions)
        if config.directions and init is None:
            residuals = fields - self.listeners.mean_field
            penalty = learned_penalty(residuals, self.directions, degree=config.kriging_degree)
            self.model.learn_listeners(fields, self.directions, penalty)
        self.data.mean = self.model.mean.clone() if config.directions else torch.zeros(1)
        self.data.fit = self.model.fit(self.directions)
        one_grid([*listeners, *held_out])
        self.judged = torch.from_numpy(np.stack([magnitudes(one, config.frequencies.numpy()) for one in held_out]))
        self.judged_points = tuple(judged_points)
        self.neighbours = angular_neighbours(self.directions)
        self.basis = real_spherical_harmonics(self.directions, self.model.out_degree).float()
        # the operator is linear: applied to the basis once, it costs no more than a second field
        self.rough_basis = dissimilarity(self.basis, self.neighbours)
        self.spread = pair_statistics(fields)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Items of the training listeners."""
        data = self.data
        data.length, data.seed = items, seed
        return data

    def settings(self) -> dict[str, Any]:
        """Of model, listeners (how many, where), items and losses."""
        own = {
            "listeners": [len(self.listeners.fields), len(self.directions)],
            "items": asdict(self.items),
            "weights": asdict(self.weights),
        }
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Made:
        """Dense coefficients of a batch, and what they should make in some directions."""
        coefficients, wanted = batch
        some = torch.randperm(len(self.directions), generator=torch.Generator().manual_seed(step))
        return Made(model(coefficients).float(), wanted, some[: self.items.directions].to(wanted.device))

    def losses(self, made: Made, step: int) -> dict[str, Tensor]:
        """Spectral distortion, level difference, neighbour dissimilarity."""
        coefficients, wanted, some = made
        field = self.basis.to(coefficients)[some] @ coefficients
        sd, ild = spectral_distortion(field, wanted[:, some]), level_difference_error(field, wanted[:, some])
        terms = {"sd": sd, "ild": ild, "content": content_loss(sd, ild, self.spread)}
        total = self.weights.content * terms["content"]
        if self.weights.neighbours:
            rough = self.rough_basis.to(coefficients)[some] @ coefficients
            around = Neighbours(some, self.neighbours.around.to(some.device)[some])
            terms["neighbours"] = (rough - dissimilarity(wanted, around)).square().mean()
            total = total + self.weights.neighbours * terms["neighbours"]
        return {**terms, "total": total}

    def validate(self, model: Model) -> dict[str, float]:
        """Held-out listeners from each number of measured directions: ``lsd`` is the mean over these numbers."""

        def predict(new: Measured) -> Tensor:
            return model.predict(new.magnitudes[None], new.directions, new.wanted)[0].float().cpu()  # type: ignore[operator]

        return self._judge(predict)

    def score_of(self, baseline: str) -> dict[str, float]:
        """The same of a baseline, one of :data:`harken.models.enhance.hrtf_baselines.BASELINES`."""
        function, _ = BASELINES[baseline]
        return self._judge(lambda new: function(new, self.listeners))

    @torch.inference_mode()
    def _judge(self, predict: Any) -> dict[str, float]:
        found: dict[str, list[float]] = {}
        for points in self.judged_points:
            index = spread_directions(self.data.directions, points)
            for field in self.judged:
                made = predict(Measured(field[index], self.directions[index], self.directions))
                scores = {
                    "lsd": spectral_distortion(made, field),
                    "ild_error": level_difference_error(made, field),
                    "dissimilarity": neighbour_dissimilarity(made, field, self.neighbours),
                }
                for name, value in scores.items():
                    found.setdefault(name, []).append(float(value))
                    found.setdefault(f"{name}_{points}", []).append(float(value))
        return {name: float(np.mean(values)) for name, values in found.items()}


class PairStatistics(NamedTuple):
    """Mean and spread of the distances between training listeners: what a loss is measured in."""

    sd_mean: float
    sd_std: float
    ild_mean: float
    ild_std: float


def pair_statistics(fields: Float[Tensor, "listeners directions values"]) -> PairStatistics:
    """Distances between all pairs of listeners."""
    pairs = [(a, b) for a in range(len(fields)) for b in range(a)]
    if len(pairs) < 2:
        return PairStatistics(0.0, 1.0, 0.0, 1.0)
    sd = torch.stack([spectral_distortion(fields[a], fields[b]) for a, b in pairs])
    ild = torch.stack([level_difference_error(fields[a], fields[b]) for a, b in pairs])
    return PairStatistics(*(float(value) for part in (sd, ild) for value in (part.mean(), part.std())))


def content_loss(sd: Float[Tensor, ""], ild: Float[Tensor, ""], spread: PairStatistics) -> Float[Tensor, ""]:
    """Both distances in units of their spread between listeners, brought back to dB.

    ``((SD - m1) / s1 + (ILD - m2) / s2) * sqrt(s1^2 + s2^2) + m1 + m2``: an affine map, whose gradient is that of each
    metric times ``sqrt(s1^2 + s2^2) / s``.
    """
    both = (spread.sd_std**2 + spread.ild_std**2) ** 0.5
    normalised = (sd - spread.sd_mean) / spread.sd_std + (ild - spread.ild_mean) / spread.ild_std
    return normalised * both + spread.sd_mean + spread.ild_mean
