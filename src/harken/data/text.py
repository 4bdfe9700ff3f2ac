"""Text as bytes: any file, any language, no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from harken.errors import InputError

LARGEST_TEXT = 1 << 30  # bytes held in memory
SUFFIXES = (".txt", ".md", ".rst", ".text", ".csv", ".tex", ".html", ".py", ".abc")


def read_text(paths: Sequence[Path | str]) -> NDArray[np.uint8]:
    """The bytes of files, or of the text files below folders in the order of their names, end to end.

    Raises:
        InputError: a path does not exist, a folder holds no text, everything is empty, or it is more than 1 GB.
    """
    parts, total = [], 0
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not files:
                raise InputError(f"no text files in '{path}': expected {', '.join(SUFFIXES)}")
        elif path.is_file():
            files = [path]
        else:
            raise InputError(f"no file or folder '{path}'")
        for file in files:
            total += file.stat().st_size
            if total > LARGEST_TEXT:
                raise InputError(f"more than {LARGEST_TEXT >> 30} GB of text up to '{file}': give less")
            try:
                parts.append(np.frombuffer(file.read_bytes(), dtype=np.uint8))
            except OSError as error:
                raise InputError(f"cannot read '{file}': {error.strerror}") from None
    if total == 0:
        raise InputError(f"no text in {', '.join(map(str, paths))}")
    return np.concatenate(parts)


def split_text(text: NDArray[np.uint8], share: float = 0.1) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The text without its last part, and that part, to judge on.

    Raises:
        InputError: the text is too short to be split.
    """
    held = int(len(text) * share)
    if held < 2 or len(text) - held < 2:
        raise InputError(f"{len(text)} bytes of text are too few to train and to judge on: give more")
    return text[:-held], text[-held:]


class TextCrops(Dataset[tuple[Tensor]]):
    """Crops of ``length + 1`` bytes from anywhere in a text; item ``i`` of a seed is the same in every process and run.

    Raises:
        InputError: the text is shorter than one crop.
    """

    def __init__(self, text: NDArray[np.uint8], length: int, *, items: int, seed: int = 0):
        if len(text) < length + 1:
            raise InputError(f"{len(text)} bytes of text are fewer than a crop of {length + 1}: give more")
        self.text, self.length, self.items, self.seed = text, length, items, seed

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[Tensor]:
        if not 0 <= index < self.items:
            raise IndexError(index)
        return (crop(self.text, self.length, np.random.default_rng((self.seed, index))),)


def crop(text: NDArray[np.uint8], length: int, rng: np.random.Generator) -> Tensor:
    """``length + 1`` bytes from anywhere in a text, as integers: what is read, and one further on what comes."""
    start = rng.integers(len(text) - length)
    return torch.from_numpy(text[start : start + length + 1].astype(np.int64))
