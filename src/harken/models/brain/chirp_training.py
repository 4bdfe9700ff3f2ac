"""Teach a chirp localizer on synthetic spectrograms, drawn afresh at every step (arXiv 2503.22713)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.data.chirps import ChirpGrid, Chirps, chirp_spectrograms, draw_chirps
from harken.errors import InputError
from harken.models.brain._fitting import Budget, fit_module
from harken.models.brain.chirp import TARGETS, ChirpLocalizer

_HELD_OUT = 1 << 40  # seeds from here on are never trained on
_WEIGHTS = (1.0, 1.0, 1.0, 0.5, 0.1)  # of the targets in the loss
_BELOW, _ABOVE = -2.0, 8.0  # standard deviations of the background that a picture shows


@dataclass(frozen=True)
class Lesson:
    """What a localizer is taught, and for how long.

    Attributes:
        pictures: how many it sees in all; none twice, unless ``fresh`` is False.
        epoch: how many between two validations.
        batch_size, lr, weight_decay: of AdamW.
        sub_bin: draw chirps between bins (:func:`harken.data.chirps.chirp_spectrograms`).
        fresh: draw new pictures at every step; otherwise the first ``epoch`` ones come again, as in the paper.
        linear_only: leave exponential chirps out, to adapt to them later.
        validation: pictures that decide which epoch is best.
    """

    pictures: int = 150_000
    epoch: int = 3000
    batch_size: int = 32
    lr: float = 2e-3
    weight_decay: float = 0.05
    sub_bin: bool = True
    fresh: bool = True
    linear_only: bool = False
    validation: int = 600


def teach(
    model: ChirpLocalizer,
    lesson: Lesson,
    grid: ChirpGrid,
    *,
    seed: int = 0,
    on_epoch: Callable[[int, dict[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train a localizer, in place, and keep the weights of its best validation, on pictures of other seeds.

    Mean and spread of the targets are taken from training chirps alone.

    Raises:
        InputError: the grid is not of the model's pictures.
    """
    c = model.config
    if (grid.times, grid.frequencies) != (c.image_size, c.image_size):
        raise InputError(f"expected a grid of {c.image_size} x {c.image_size}, got {grid.frequencies} x {grid.times}")
    if min(lesson.epoch, lesson.pictures, lesson.validation) < 1:
        raise InputError("expected at least one picture")
    first = shares(draw_chirps(4000, grid, seed=seed), grid)[:, : c.targets]
    model.target_mean.copy_(first.mean(0))
    model.target_std.copy_(first.std(0))
    pictures, targets = lesson_pictures(lesson.validation, grid, lesson, seed=_HELD_OUT + seed)
    validation = (torch.zeros(lesson.validation, dtype=torch.long), pictures, targets[:, : c.targets])
    empty = torch.zeros(lesson.epoch, 1)  # drawn when they are needed
    if lesson.fresh:
        train: tuple[Tensor, ...] = (torch.arange(lesson.epoch), empty, empty)
    else:
        pictures, targets = lesson_pictures(lesson.epoch, grid, lesson, seed=seed)
        train = (torch.arange(lesson.epoch), pictures, targets[:, : c.targets])

    def loss(module: nn.Module, index: Tensor, pictures: Tensor, targets: Tensor) -> Tensor:
        if module.training and lesson.fresh:
            drawn = int(torch.randint(_HELD_OUT, ()))
            pictures, targets = (part.to(index.device) for part in lesson_pictures(len(index), grid, lesson, drawn))
        return localization_loss(module, pictures, targets[:, : c.targets])  # type: ignore[arg-type]

    budget = Budget(
        epochs=max(1, round(lesson.pictures / lesson.epoch)),
        batch_size=lesson.batch_size,
        lr=lesson.lr,
        weight_decay=lesson.weight_decay,
        patience=None,
        schedule="cosine",
        decoupled=True,
        clip_norm=1.0,
    )
    return fit_module(model, loss, train, validation, budget, seed=seed, on_epoch=on_epoch)


def localization_loss(
    model: ChirpLocalizer,
    pictures: Float[Tensor, "batch channels height width"],
    targets: Float[Tensor, "batch known"],
) -> Float[Tensor, ""]:
    """Squared error of standardised targets; duration and kind count less."""
    known = targets.shape[1]
    weights = torch.tensor(_WEIGHTS[:known], device=targets.device)
    return (weights * (model(pictures)[:, :known] - model.standardised(targets)).square()).mean()


def lesson_pictures(
    count: int, grid: ChirpGrid, lesson: Lesson, seed: int
) -> tuple[Float[Tensor, "count 1 height width"], Float[Tensor, "count targets"]]:
    """Pictures as the network sees them, and where their chirps are, as shares."""
    chirps = draw_chirps(count, grid, seed=seed)
    if lesson.linear_only:
        chirps.is_exponential[:] = False
    made = chirp_spectrograms(chirps, grid, seed=seed, sub_bin=lesson.sub_bin)
    return torch.from_numpy(standardised_pictures(made))[:, None], shares(chirps, grid)


def standardised_pictures(
    spectrograms: Float[np.ndarray, "pictures frequencies times"], *, by_row: bool = False
) -> Float[np.ndarray, "pictures frequencies times"]:
    """Spectrograms above their background, so that noise looks alike however strong it is.

    The median becomes 0; the background's standard deviation (from the median distance, which a chirp hardly moves)
    0.25; what is far above is cut off at 2. ``by_row`` does so for each frequency, for real spectra, which slope.
    """
    axes = 2 if by_row else (1, 2)
    middle = np.median(spectrograms, axes, keepdims=True)
    spread = 1.4826 * np.median(np.abs(spectrograms - middle), axes, keepdims=True)
    spread = np.maximum(spread, 1e-6 * max(float(np.abs(spectrograms).max(initial=0.0)), 1e-30))
    return (((spectrograms - middle) / spread).clip(_BELOW, _ABOVE) / 4).astype(np.float32)


def shares(chirps: Chirps, grid: ChirpGrid) -> Float[Tensor, "chirps 5"]:
    """Where chirps are, as shares of the picture, in the order of :data:`harken.models.brain.chirp.TARGETS`."""
    long, high = grid.duration, grid.max_frequency
    columns: list[Any] = [
        chirps.start_time / long, chirps.start_frequency / high, chirps.end_frequency / high, chirps.duration / long,
        chirps.is_exponential,
    ]  # fmt: skip
    assert len(columns) == len(TARGETS)
    return torch.from_numpy(np.stack(columns, 1).astype(np.float32))
