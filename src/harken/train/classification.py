"""Recipe of image classifiers: shifted, cropped and mirrored images, judged by accuracy on those held out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.digits import LabelledImages
from harken.data.images import ImageSet, normalised
from harken.errors import InputError
from harken.models._base import Model
from harken.train.loop import Recipe

JUDGED_AT_ONCE = 64


@dataclass(frozen=True)
class Augmentation:
    """How far a training image may stray from the file.

    Attributes:
        shift: largest shift as a share of the side, each way; what comes in repeats the edge.
        crop: smallest side of a random cut-out, as a share of the whole; 1 for none.
        flip: mirror half of the images, left to right.
        turn: largest turn, in degrees, each way.
    """

    shift: float = 0.1
    crop: float = 1.0
    flip: bool = False
    turn: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.shift < 1 or not 0 < self.crop <= 1 or not 0 <= self.turn <= 180:
            raise InputError(
                f"expected shift in [0, 1), crop in (0, 1] and turn in [0, 180], got {self.shift}, {self.crop}, "
                f"{self.turn}"
            )

    def __call__(
        self, image: Float[Tensor, "channels height width"], rng: np.random.Generator
    ) -> Float[Tensor, "channels height width"]:
        """An image moved at random, by one bilinear look-up."""
        side = rng.uniform(self.crop, 1.0)
        # a cut-out lies anywhere inside the image, and is shifted on top of that
        room = 1 - side + 2 * self.shift
        x, y = rng.uniform(-room, room, size=2)
        mirror = -1.0 if self.flip and rng.random() < 0.5 else 1.0
        angle = np.deg2rad(rng.uniform(-self.turn, self.turn))
        cos, sin = side * np.cos(angle), side * np.sin(angle)
        if (side, x, y, mirror, angle) == (1.0, 0.0, 0.0, 1.0, 0.0):
            return image
        place = torch.tensor([[[mirror * cos, -sin, x], [mirror * sin, cos, y]]], dtype=image.dtype)
        grid = F.affine_grid(place, [1, *image.shape], align_corners=False)
        return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


class AugmentedImages(Dataset[tuple[Tensor, Tensor]]):
    """Training items without end: each round goes through all images in an order of its own."""

    def __init__(self, images: LabelledImages, augmentation: Augmentation, *, items: int, seed: int):
        self.images, self.augmentation, self.items, self.seed = images, augmentation, items, seed
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        around, place = divmod(item, len(self.images.labels))
        if self._order[0] != around:
            order = np.random.default_rng((self.seed, around)).permutation(len(self.images.labels))
            self._order = (around, order)
        index = int(self._order[1][place])
        image = normalised(self.images.images[index])
        return self.augmentation(image, np.random.default_rng((self.seed, 1, item))), self.images.labels[index]


class Classified(NamedTuple):
    """Logits ``(batch, classes)``, and the classes that were right, ``(batch,)``."""

    logits: Tensor
    labels: Tensor


class ClassificationRecipe(Recipe):
    """An image classifier on images in memory.

    Args:
        model: images ``(batch, channels, size, size)``, -1 to 1, to logits ``(batch, classes)``.
        data: images of 0 to 255, and what they are called.
        augmentation: of the training images.
        label_smoothing: share of the target that is spread over all classes.

    Raises:
        InputError: the model has another number of classes than the data.
    """

    score_name = "accuracy"
    higher_is_better = True

    def __init__(
        self,
        model: Model,
        data: ImageSet,
        *,
        augmentation: Augmentation | None = None,
        label_smoothing: float = 0.05,
    ):
        if model.config.classes != len(data.labels.names):
            raise InputError(f"the model tells {model.config.classes} classes, the data has {len(data.labels.names)}")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"expected label_smoothing in [0, 1), got {label_smoothing}")
        self.model: Any = model
        self.data = data
        self.augmentation = augmentation or Augmentation()
        self.label_smoothing = label_smoothing

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Training images, each moved a little."""
        return AugmentedImages(self.data.train, self.augmentation, items=items, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Of the model, the classes, the number of images and how they are moved."""
        return {
            **super().settings(),
            "labels": asdict(self.data.labels),
            "images": len(self.data.train.labels),
            "augmentation": asdict(self.augmentation),
            "label_smoothing": self.label_smoothing,
        }

    def generate(self, model: nn.Module, batch: Any, step: int) -> Classified:
        """Logits of a batch."""
        images, labels = batch
        return Classified(model(images), labels)

    def losses(self, made: Classified, step: int) -> dict[str, Tensor]:
        """Cross-entropy, in nats."""
        return {"total": F.cross_entropy(made.logits.float(), made.labels, label_smoothing=self.label_smoothing)}

    def validate(self, model: Model) -> dict[str, float]:
        """Accuracy and cross-entropy on the images that were held out."""
        logits, labels = logits_of(model, self.data.held_out.images), self.data.held_out.labels
        return {
            "accuracy": float((logits.argmax(-1) == labels).float().mean()),
            "cross_entropy": float(F.cross_entropy(logits, labels)),
        }


@dataclass(frozen=True)
class ClassScore:
    """One class among the held-out images: how many there are, what share is found, and of those named so, is right."""

    name: str
    images: int
    recall: float
    precision: float


def class_scores(model: Model, images: LabelledImages, names: tuple[str, ...]) -> list[ClassScore]:
    """Every class by itself; a precision where nothing was named so is 0."""
    guessed = logits_of(model, images.images).argmax(-1)
    scores = []
    for number, name in enumerate(names):
        real, named = images.labels == number, guessed == number
        right = int((real & named).sum())
        scores.append(
            ClassScore(name, int(real.sum()), right / max(1, int(real.sum())), right / max(1, int(named.sum())))
        )
    return scores


@torch.inference_mode()
def logits_of(model: Model, images: Tensor) -> Float[Tensor, "count classes"]:
    """Logits of images of 0 to 255, some at a time, on the CPU."""
    device = next(model.parameters()).device
    return torch.cat([model(normalised(part).to(device)).float().cpu() for part in images.split(JUDGED_AT_ONCE)])
