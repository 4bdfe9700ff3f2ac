"""Recipe of language models: predict the next byte, judged by bits per byte on text that was held out."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.text import TextCrops, split_text
from harken.errors import InputError
from harken.models._base import Model
from harken.train.loop import Recipe


class Predicted(NamedTuple):
    """Logits ``(batch, time, vocabulary)``, and the tokens that came, ``(batch, time)``."""

    logits: Tensor
    tokens: Tensor


class LanguageRecipe(Recipe):
    """A language model on the bytes of a text; its last tenth is held out.

    Args:
        model: tokens ``(batch, time)`` to logits ``(batch, time, vocabulary)``, with a vocabulary of at least 256.
        text: bytes.
        length: of a training crop, and of the windows that are judged.
        windows: how many windows of the held-out text are judged, evenly spread.

    Raises:
        InputError: the text is too short, or the model's vocabulary has no room for bytes.
    """

    score_name = "bits_per_byte"
    higher_is_better = False

    def __init__(self, model: Model, text: NDArray[np.uint8], *, length: int = 256, windows: int = 64):
        if length < 1 or windows < 1:
            raise InputError(f"expected a length and a number of windows of at least 1, got {length} and {windows}")
        if getattr(model.config, "vocabulary", 256) < 256:
            raise InputError(f"bytes need a vocabulary of 256, the model has {model.config.vocabulary}")
        self.model: Any = model
        self.length = length
        self.text, held_out = split_text(text)
        if min(len(held_out), len(self.text)) <= length:
            need = 10 * (length + 1)
            raise InputError(f"{len(text)} bytes of text are too few for crops of {length}: give at least {need}")
        self.windows = _windows(held_out, length, windows)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Crops of the training text."""
        return TextCrops(self.text, self.length, items=items, seed=seed)

    def settings(self) -> dict[str, Any]:
        """Of the model, the text's size and the length."""
        return {**super().settings(), "text": len(self.text), "length": self.length}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Predicted:
        """Logits for every byte but the first."""
        (crop,) = batch
        return Predicted(model(crop[:, :-1]), crop[:, 1:])

    def losses(self, made: Predicted, step: int) -> dict[str, Tensor]:
        """Cross-entropy, in nats per byte."""
        return {"total": F.cross_entropy(made.logits.flatten(0, 1).float(), made.tokens.flatten())}

    def validate(self, model: Model) -> dict[str, float]:
        """Bits per byte of the held-out windows, without the first byte of each, which has no context."""
        device = next(model.parameters()).device
        nats = [
            float(F.cross_entropy(model(part[:, :-1]).flatten(0, 1).float(), part[:, 1:].flatten()))
            for part in self.windows.to(device).split(8)
        ]
        sizes = [len(part) for part in self.windows.split(8)]
        return {"bits_per_byte": sum(n * s for n, s in zip(nats, sizes, strict=True)) / sum(sizes) / math.log(2)}


def _windows(text: NDArray[np.uint8], length: int, count: int) -> Tensor:
    """Up to ``count`` windows of ``length + 1`` bytes, evenly spread, overlapping only where the text is short."""
    last = len(text) - length - 1
    count = min(count, max(1, len(text) // (length + 1)))
    starts = np.linspace(0, last, count).astype(int)
    return torch.from_numpy(np.stack([text[start : start + length + 1] for start in starts]).astype(np.int64))
