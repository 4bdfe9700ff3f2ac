"""Image files in, classes with their probabilities out, and what in each image they were told by."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harken.data.images import Labels, normalised, read_image
from harken.errors import CheckpointError, InputError
from harken.figures import new_figure, save_figure
from harken.models import load, weights_folder
from harken.models._base import MAX_CONFIG_BYTES, Model

BUNDLED = "mavit"  # tells handwritten digits
CLASSIFIERS = ("vit", "litv2", "mavit", "minimal-vit")
_AT_ONCE = 32
_COVERS = 8  # a side of an image, when it is covered part by part
_LARGEST_PICTURE = 24


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image: the likeliest classes first, with their probabilities."""

    path: str
    classes: tuple[tuple[str, float], ...]
    image: UInt8[Tensor, "channels size size"]

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {"image": self.path, "classes": [{"class": name, "probability": p} for name, p in self.classes]}


@dataclass(frozen=True)
class Classifier:
    """A model and what its numbers mean."""

    model: Model
    labels: Labels

    @classmethod
    def load(cls, weights: str | os.PathLike[str] | None = None) -> Classifier:
        """From the folder of a run or of its best model; with None the digits that ship.

        Raises:
            CheckpointError: there are no such weights, or they are of another kind of model.
            InputError: ``classes.json`` is missing or damaged.
        """
        if weights is None:
            folder = weights_folder(BUNDLED)
            if folder is None:
                raise CheckpointError("no weights ship: train some with 'harken see classify train'")
        else:
            folder = Path(weights)
            if not folder.is_dir():
                raise CheckpointError(f"no weights at '{folder}': expected a folder, such as runs/see/best")
            folder = folder if (folder / "config.json").is_file() else folder / "best"
        slug = _slug(folder)
        model, labels = load(slug, folder), Labels.read(folder)
        if model.config.classes != len(labels.names) or model.config.channels != labels.channels:
            raise CheckpointError(f"the classes.json of '{folder}' is of another model")
        return cls(model, labels)

    def predict(self, paths: Sequence[str | os.PathLike[str]], top: int = 3) -> tuple[list[Prediction], list[str]]:
        """The likeliest classes of each image; what cannot be read is returned as errors beside them.

        Raises:
            InputError: ``top`` is not positive.
        """
        if top < 1:
            raise InputError(f"expected at least 1 class to name, got {top}")
        made, errors = [], []
        for start in range(0, len(paths), _AT_ONCE):
            images: dict[str, Tensor] = {}
            for path in paths[start : start + _AT_ONCE]:
                try:
                    images[str(path)] = read_image(path, self.labels)
                except InputError as error:
                    errors.append(str(error))
            if images:
                for (path, image), row in zip(images.items(), self._probabilities(list(images.values())), strict=True):
                    best = row.topk(min(top, len(row)))
                    named = tuple((self.labels.names[int(i)], float(p)) for p, i in zip(*best, strict=True))
                    made.append(Prediction(path, named, image))
        return made, errors

    def evidence(self, prediction: Prediction) -> Float[Tensor, "rows columns"]:
        """By how much the likeliest class loses probability when a part of the image is covered.

        A photo is covered with its mean colour, a digit with its ground.

        Any model can be asked so, with or without attention; parts overlap by half.
        """
        image = prediction.image
        size = image.shape[-1]
        side = max(1, round(2 * size / _COVERS))
        starts = sorted({round(i * max(0, size - side) / (_COVERS - 1)) for i in range(_COVERS)})
        covered = []
        written = self.labels.prepare == "digit"
        ground = torch.zeros_like(image[:, :1, :1]) if written else image.float().mean((1, 2), keepdim=True).byte()
        for row in starts:
            for column in starts:
                copy = image.clone()
                copy[:, row : row + side, column : column + side] = ground
                covered.append(copy)
        number = self.labels.names.index(prediction.classes[0][0])
        lost = prediction.classes[0][1] - self._probabilities(covered)[:, number]
        total, count = torch.zeros(size, size), torch.zeros(size, size)
        for loss, (row, column) in zip(lost, ((r, c) for r in starts for c in starts), strict=True):
            total[row : row + side, column : column + side] += loss
            count[row : row + side, column : column + side] += 1
        return total / count.clamp_min(1)

    @torch.inference_mode()
    def _probabilities(self, images: list[Tensor]) -> Tensor:
        stacked = normalised(torch.stack(images))
        return torch.cat([self.model(part).softmax(-1) for part in stacked.split(_AT_ONCE)])


def draw_predictions(classifier: Classifier, predictions: Sequence[Prediction], path: str | os.PathLike[str]) -> None:
    """Each image as the model sees it, what it is taken for, and the parts that speak for that.

    Raises:
        InputError: there is nothing to draw.
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    shown = predictions[:_LARGEST_PICTURE]
    if not shown:
        raise InputError("no image could be read: there is nothing to draw")
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(2 * 1.7 * columns, 2.0 * rows)
    for number, prediction in enumerate(shown):
        name, probability = prediction.classes[0]
        row, column = divmod(number, columns)
        image = prediction.image.permute(1, 2, 0).squeeze(-1).numpy()
        seen = figure.add_subplot(rows, 2 * columns, row * 2 * columns + 2 * column + 1)
        seen.imshow(image, cmap="gray" if image.ndim == 2 else None, vmin=0, vmax=255)
        seen.set_title(f"{name[:14]}  {probability:.0%}", fontsize=8)
        told = figure.add_subplot(rows, 2 * columns, row * 2 * columns + 2 * column + 2)
        evidence = classifier.evidence(prediction)
        most = max(1e-3, float(evidence.abs().max()))
        told.imshow(evidence.numpy(), cmap="RdBu_r", vmin=-most, vmax=most)
        told.set_title(f"covered: {-float(evidence.max()):+.0%}", fontsize=8)
        for axes in (seen, told):
            axes.set_xticks([])
            axes.set_yticks([])
    save_figure(figure, path)


def _slug(folder: Path) -> str:
    """Which classifier a folder holds."""
    import json

    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no config.json in '{folder}': expected the folder of a trained model")
    try:
        small = path.stat().st_size <= MAX_CONFIG_BYTES
        slug = json.loads(path.read_text(encoding="utf-8"))["slug"] if small else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        slug = None
    if slug not in CLASSIFIERS:
        raise CheckpointError(f"'{folder}' holds no image classifier: expected one of {', '.join(CLASSIFIERS)}")
    return slug
