"""Small tasks on which attention mechanisms are compared: real data that every installation has, or a file of yours."""

from __future__ import annotations

import math
import sysconfig
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harken.data.text import TextCrops, crop, read_text, split_text
from harken.errors import InputError, MissingExtraError

HELD_OUT = 256  # sequences that judge
IGNORED = -100  # a target that does not count


class AttentionTask(ABC):
    """Seeded batches of inputs and targets of one length, for training and for judging.

    A causal task is next-token prediction: inputs ``(batch, time)``, targets ``(batch, time)``, :data:`IGNORED` where
    they do not count. Any other is classification: inputs ``(batch, time)`` of tokens or ``(batch, time, channels)``,
    targets ``(batch,)``.

    Attributes:
        causal: which of the two.
        quality: what is reported, ``"accuracy"`` or ``"bits_per_byte"``.
        classes: how many targets there are.
        channels: of a series; None for tokens.
        vocabulary: of tokens.
        grid: ``(H, W)`` of image tokens, else None.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    causal: ClassVar[bool]
    quality: ClassVar[str] = "accuracy"
    classes: int
    channels: int | None = None
    vocabulary: int = 256
    grid: tuple[int, int] | None = None

    def __init__(self, length: int):
        if length < 4:
            raise InputError(f"a task needs a length of at least 4, got {length}")
        self.length = length

    @abstractmethod
    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and targets drawn with ``rng``."""


class Copy(AttentionTask):
    """Random symbols, a separator, and the same symbols again: what a mechanism can carry over half its length."""

    name = "copy"
    about = "random symbols to be repeated (accuracy of the repetition)"
    causal = True
    vocabulary = classes = 33

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Symbols, separator, symbols; only the repetition counts."""
        half = self.length // 2
        symbols = rng.integers(32, size=(size, half))
        separator = np.full((size, 1), 32)
        whole = torch.from_numpy(np.concatenate((symbols, separator, symbols), 1)).long()
        inputs, targets = whole[:, :-1], whole[:, 1:].clone()
        targets[:, :half] = IGNORED
        return inputs, targets


class LanguageModelling(AttentionTask):
    """Bytes of real text; its last tenth judges."""

    name = "lm"
    about = "the next byte of Python's own documentation, or of your file (bits per byte)"
    causal = True
    quality = "bits_per_byte"
    classes = 256

    def __init__(self, length: int, file: Path | None = None):
        super().__init__(length)
        text = read_text([file]) if file is not None else _documentation()
        self._parts = dict(zip((False, True), split_text(text), strict=True))
        TextCrops(self._parts[True], length, items=1)  # says so where the text is too short

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Crops of the text; every next byte counts."""
        crops = torch.stack([crop(self._parts[held_out], self.length, rng) for _ in range(size)])
        return crops[:, :-1], crops[:, 1:]


class SourceCode(LanguageModelling):
    """Bytes of the modules of Python's library, about 6 MB; every tenth file judges."""

    name = "code"
    about = "the next byte of Python's own library (bits per byte)"

    def __init__(self, length: int):
        AttentionTask.__init__(self, length)
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        if len(files) < 20:
            raise InputError("this Python's library has too few sources to train on: choose another task")
        parts = {True: files[::10], False: [file for number, file in enumerate(files) if number % 10]}
        self._parts = {held_out: read_text(chosen) for held_out, chosen in parts.items()}
        TextCrops(self._parts[True], length, items=1)  # says so where the text is too short


class DocumentClassification(AttentionTask):
    """Which of eight packages of Python's library a stretch of source code is from; whole files are held out."""

    name = "document"
    about = "which package of Python's library a stretch of source code is from (accuracy)"
    causal = False
    PACKAGES = ("asyncio", "ctypes", "email", "importlib", "json", "logging", "multiprocessing", "unittest")
    classes = len(PACKAGES)

    def __init__(self, length: int):
        super().__init__(length)
        library = Path(sysconfig.get_paths()["stdlib"])
        self._parts: dict[bool, list[NDArray[np.uint8]]] = {False: [], True: []}
        for package in self.PACKAGES:
            files = sorted((library / package).glob("*.py"))
            texts = [np.frombuffer(file.read_bytes(), dtype=np.uint8) for file in files]
            texts = [text for text in texts if len(text) > 1000]
            if len(texts) < 3:
                raise InputError(f"this Python's library has no sources of '{package}': choose another task")
            for held_out, chosen in ((True, texts[::4]), (False, [t for i, t in enumerate(texts) if i % 4])):
                joined = np.concatenate(chosen)
                # a package too small for the length repeats
                self._parts[held_out].append(np.tile(joined, 1 + (length + 1) // len(joined)))

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Stretches of source code and the number of their package."""
        labels = rng.integers(self.classes, size=size)
        crops = []
        for label in labels:
            text = self._parts[held_out][label]
            start = rng.integers(len(text) - self.length + 1)
            crops.append(text[start : start + self.length])
        return torch.from_numpy(np.stack(crops).astype(np.int64)), torch.from_numpy(labels).long()


class ImageClassification(AttentionTask):
    """Handwritten digits, one pixel a position (scikit-learn's 1,797 digits, resized)."""

    name = "image"
    about = "handwritten digits, pixel by pixel (accuracy)"
    causal = False
    classes = 10
    channels = 1

    def __init__(self, length: int):
        super().__init__(length)
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise MissingExtraError("scikit-learn", extra="compare") from None
        side = math.isqrt(length)
        self.grid, self.length = (side, side), side * side
        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
        images = torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=True)
        self._images, self._labels = images.flatten(1).unsqueeze(-1), torch.from_numpy(digits.target).long()

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Digits as ``(batch, pixels, 1)``, about -1 to 1."""
        held = len(self._labels) - 300  # by other writers: scikit-learn keeps the order of the writers
        index = torch.from_numpy(
            rng.integers(held, len(self._labels), size) if held_out else rng.integers(held, size=size)
        )
        return self._images[index], self._labels[index]


class SeriesClassification(AttentionTask):
    """Sound, sample by sample: a voice, the same voice in babble, or babble alone, from the recording that ships."""

    name = "series"
    about = "sound, sample by sample: a voice, a voice in babble, or babble (accuracy)"
    causal = False
    classes = 3
    channels = 1

    def __init__(self, length: int):
        super().__init__(length)
        from importlib.resources import files

        from harken.data.audio import read

        samples = files("harken.data") / "samples"
        clean, noisy = (
            read(str(samples / f"voice-in-babble-{kind}.flac")).samples[:, 0] for kind in ("clean", "noisy")
        )
        cut = 2 * len(clean) // 3  # the last third judges
        kinds = (clean, noisy, noisy - clean)
        self._parts = {False: [kind[:cut] for kind in kinds], True: [kind[cut:] for kind in kinds]}
        if len(clean) - cut <= length:
            raise InputError(
                f"the recording that ships is too short for {length} samples: choose a length below {cut // 2}"
            )

    def batch(self, rng: np.random.Generator, size: int, *, held_out: bool = False) -> tuple[Tensor, Tensor]:
        """Stretches of sound of unit RMS as ``(batch, samples, 1)``."""
        labels = rng.integers(self.classes, size=size)
        crops = []
        for label in labels:
            sound = self._parts[held_out][label]
            start = rng.integers(len(sound) - self.length + 1)
            crop = sound[start : start + self.length]
            crops.append(crop / max(float(np.sqrt(np.mean(crop**2))), 1e-4))  # the level must not give it away
        return torch.from_numpy(np.stack(crops)).float().unsqueeze(-1), torch.from_numpy(labels).long()


TASKS: dict[str, type[AttentionTask]] = {
    task.name: task
    for task in (Copy, LanguageModelling, SourceCode, ImageClassification, SeriesClassification, DocumentClassification)
}


def make_task(name: str, length: int) -> AttentionTask:
    """A task by name, or language modelling on the text file of that name.

    Raises:
        InputError: neither a task nor a file, or a length that the data does not allow.
        MissingExtraError: the data comes with a package that is not installed.
    """
    if name in TASKS:
        return TASKS[name](length)
    if Path(name).exists():
        return LanguageModelling(length, Path(name))
    raise InputError(f"no task and no file '{name}': one of {', '.join(TASKS)}, or a text file")


def _documentation() -> NDArray[np.uint8]:
    """Half a megabyte of English: the reference that Python's own ``help`` shows."""
    from pydoc_data.topics import topics

    text = "\n\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(text.encode(), dtype=np.uint8)
