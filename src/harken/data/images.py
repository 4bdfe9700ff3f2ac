"""Images: files of any size and kind to small tensors, folders of them to a data set with a held-out part."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from harken.data.digits import SIDE, LabelledImages, read_digits
from harken.errors import InputError, MissingExtraError
from harken.whole_files import write_text

if TYPE_CHECKING:
    from PIL.Image import Image

Prepare = Literal["photo", "digit"]
Fit = Callable[["Image", "Labels"], "Image"]

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
LARGEST_IMAGE = 80_000_000  # pixels; read from the header, before any is unpacked
LARGEST_SET = 2 << 30  # bytes of resized images that are kept in memory
LARGEST_LABELS = 4 << 20
_KINDS = ("PNG", "JPEG", "BMP", "WEBP")
_NAME = "classes.json"


@dataclass(frozen=True)
class Labels:
    """What a classifier's numbers mean, and how images were made ready for it; lies beside its weights.

    Attributes:
        names: of the classes, in their order.
        image_size: side of the square that the model sees, in pixels.
        channels: 1 for grey, 3 for colours.
        prepare: ``"photo"``: the largest square in the middle; ``"digit"``: dark writing on bright ground is inverted,
            the writing cut out, put in the middle of a square and stretched to the full contrast.
    """

    names: tuple[str, ...]
    image_size: int
    channels: Literal[1, 3] = 3
    prepare: Prepare = "photo"

    def __post_init__(self) -> None:
        if not self.names or not all(isinstance(name, str) for name in self.names):
            raise InputError("expected the names of at least one class")
        if not isinstance(self.image_size, int) or not 1 <= self.image_size <= 4096:
            raise InputError(f"expected an image_size of 1 to 4096 pixels, got {self.image_size!r}")
        if self.channels not in (1, 3) or self.prepare not in get_args(Prepare):
            raise InputError(f"expected 1 or 3 channels, prepared as photo or digit, got {self.channels}")

    def write(self, folder: Path) -> None:
        """Write ``classes.json``."""
        write_text(folder / _NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Labels:
        """Read ``classes.json``, from the folder of a model or the run around it.

        Raises:
            InputError: it is missing, damaged or hostile.
        """
        path = next((place / _NAME for place in (folder, folder.parent) if (place / _NAME).is_file()), None)
        if path is None:
            raise InputError(f"no {_NAME} in '{folder}': it says what the classes are called; train writes it")
        try:
            if path.stat().st_size > LARGEST_LABELS:
                raise ValueError("it is too large")
            entries: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**entries, "names": tuple(entries["names"])})
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise InputError(f"'{path}' does not say what the classes are called: {error}") from None


def read_image(path: str | os.PathLike[str], labels: Labels) -> UInt8[Tensor, "channels size size"]:
    """An image as a classifier sees it, 0 to 255: turned upright, grey or coloured, cut out, resized.

    Transparency is laid on white; 16 bits become 8.

    Raises:
        InputError: no such file, not an image, damaged, or of more than eighty million pixels.
        MissingExtraError: Pillow is not installed.
    """
    fit: Fit = _digit if labels.prepare == "digit" else _square
    with _opened(Path(path)) as image:
        array = np.array(fit(image, labels), dtype=np.uint8)
    return torch.from_numpy(array).reshape(labels.image_size, labels.image_size, labels.channels).permute(2, 0, 1)


def normalised(images: UInt8[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """0 to 255 as -1 to 1, which is what the models see."""
    return images.float() / 127.5 - 1


@dataclass(frozen=True)
class ImageSet:
    """Images in memory, those to train on and those to judge on; ``unreadable`` says what was left out and why."""

    labels: Labels
    train: LabelledImages
    held_out: LabelledImages
    unreadable: tuple[str, ...] = ()


def read_folder(
    folder: str | os.PathLike[str],
    *,
    image_size: int,
    channels: Literal[1, 3] = 3,
    held_out: float = 0.2,
    seed: int = 0,
    told: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """Images from a folder with one sub-folder a class; a share of each class is held out.

    Files that cannot be read are left out and named. Which are held out follows from the seed and the files' names.

    Args:
        folder: ``folder/CLASS/anything.png``, in any depth below the class.
        image_size, channels: see :class:`Labels`.
        held_out: share of each class, at least one image.
        seed: of the choice.
        told: called as ``told(read, all)``.

    Raises:
        InputError: no such folder, fewer than two classes, a class with fewer than two images, or too much for memory.
    """
    folder = Path(folder)
    if not 0 < held_out < 1:
        raise InputError(f"expected a share of images to hold out, between 0 and 1, got {held_out}")
    classes = _classes(folder)
    labels = Labels(tuple(classes), image_size, channels)
    count = sum(len(paths) for paths in classes.values())
    if count * channels * image_size**2 > LARGEST_SET:
        raise InputError(f"{count} images of {image_size} x {image_size} are too much for memory: lower --image-size")
    kept: dict[bool, list[tuple[Tensor, int]]] = {False: [], True: []}
    unreadable, done = [], 0
    for number, (name, paths) in enumerate(classes.items()):
        images = []
        for path in paths:
            try:
                images.append(read_image(path, labels))
            except InputError as error:
                unreadable.append(str(error))
            done += 1
            if told:
                told(done, count)
        if len(images) < 2:
            raise InputError(f"class '{name}' has {len(images)} readable images: it takes two, one of them to judge on")
        order = np.random.default_rng((seed, number)).permutation(len(images))
        judged = min(len(images) - 1, max(1, round(held_out * len(images))))
        for place, index in enumerate(order):
            kept[place < judged].append((images[index], number))
    train, judged_by = (
        LabelledImages(torch.stack([image for image, _ in part]), torch.tensor([label for _, label in part]))
        for part in (kept[False], kept[True])
    )
    return ImageSet(labels, train, judged_by, tuple(unreadable))


def digits_set(image_size: int) -> ImageSet:
    """The digits that come with scikit-learn; the writers of the held-out ones are not in the training part."""
    labels = Labels(tuple("0123456789"), image_size, channels=1, prepare="digit")
    train, held_out = (
        LabelledImages(((part.images + 1) * 127.5).round().to(torch.uint8), part.labels)
        for part in read_digits(image_size)
    )
    return ImageSet(labels, train, held_out)


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Image files by the sub-folder they are in, both sorted."""
    if not folder.is_dir():
        raise InputError(f"no folder '{folder}': expected one with a sub-folder of images for each class")
    found = {}
    for place in sorted(folder.iterdir()):
        if place.is_dir() and not place.name.startswith("."):
            paths = [path for path in place.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()]
            if paths:
                found[place.name] = sorted(paths)
    if len(found) < 2:
        raise InputError(
            f"'{folder}' has {len(found)} sub-folders with images ({', '.join(ENDINGS)}): expected one for each class, "
            "two at least"
        )
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    """An image file, its size checked before it is unpacked, upright, 8 bits, without transparency."""
    try:
        import PIL.Image
        from PIL import ImageOps
    except ImportError:
        raise MissingExtraError("pillow", extra="compare") from None
    if not path.is_file():
        raise InputError(f"no image '{path}'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes that are refused here anyway
            opened = PIL.Image.open(path, formats=_KINDS)
        with opened as image:
            if image.width * image.height > LARGEST_IMAGE:
                size = f"{image.width} x {image.height}"
                raise InputError(f"'{path}' has {size} pixels, more than {LARGEST_IMAGE:,}: make it smaller")
            image.load()
            yield _eight_bits(ImageOps.exif_transpose(image))
    except InputError:
        raise
    except Exception as error:  # decoders raise anything at all on hostile bytes
        what = next((line.strip()[:150] for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"'{path}' is not a readable image: {what}") from None


def _eight_bits(image: Image) -> Image:
    import PIL.Image

    if image.mode.startswith(("I", "F")):
        array = np.asarray(image, dtype=np.float32)
        top = 65535.0 if image.mode.startswith("I") else max(1.0, float(np.nanmax(array)))
        return PIL.Image.fromarray((np.clip(np.nan_to_num(array) / top, 0, 1) * 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = PIL.Image.new("RGBA", image.size, "white")
        return PIL.Image.alpha_composite(ground, image).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _square(image: Image, labels: Labels) -> Image:
    import PIL.Image
    from PIL import ImageOps

    image = image.convert("L" if labels.channels == 1 else "RGB")
    return ImageOps.fit(image, (labels.image_size, labels.image_size), PIL.Image.Resampling.BICUBIC)


def _digit(image: Image, labels: Labels) -> Image:
    """The writing alone, bright on dark, in the middle of a square."""
    import PIL.Image
    from PIL import ImageOps

    grey = np.asarray(image.convert("L"), dtype=np.float32)
    border = np.concatenate((grey[0], grey[-1], grey[:, 0], grey[:, -1]))
    middle = (grey.min() + grey.max()) / 2
    if np.median(border) > middle:  # dark on bright, as people write
        grey = 255 - grey
    low, high = float(grey.min()), float(grey.max())
    ink = (grey - low) / (high - low) if high - low > 8 else np.zeros_like(grey)  # an empty page stays empty
    rows, columns = np.flatnonzero((ink > 0.4).any(1)), np.flatnonzero((ink > 0.4).any(0))
    if len(rows):
        ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    written = PIL.Image.fromarray((ink * 255).round().astype(np.uint8))
    side = max(written.size)
    square = ImageOps.pad(written, (side, side), PIL.Image.Resampling.NEAREST, color=0)
    scanned = square.resize((SIDE, SIDE), PIL.Image.Resampling.BOX)  # as the digits were that models learn from
    brightest = max(1, scanned.getextrema()[1])  # thin strokes have become grey, theirs were thick
    scanned = scanned.point(lambda value: value * 255 / brightest)
    return scanned.resize((labels.image_size, labels.image_size), PIL.Image.Resampling.BILINEAR)
