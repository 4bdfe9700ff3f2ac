"""Handwritten digits that every installation of scikit-learn has, split by who wrote them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError, MissingExtraError

HELD_OUT = 300  # the last ones, by other writers: scikit-learn keeps the order of the writers
SIDE = 8  # pixels, as scanned


class LabelledImages(NamedTuple):
    """Images, about -1 (paper) to 1 (ink), and the number of each one's class."""

    images: Float[Tensor, "count channels height width"]
    labels: Int[Tensor, " count"]


def read_digits(side: int = SIDE) -> tuple[LabelledImages, LabelledImages]:
    """To train on, and to judge on: 1,497 and 300 grey digits of other writers (UCI optical digits, CC BY 4.0).

    Args:
        side: pixels; other than 8 they are resized.

    Raises:
        InputError: no pixels.
        MissingExtraError: scikit-learn, with which they come, is not installed.

    >>> train, held_out = read_digits()
    >>> train.images.shape, len(held_out.labels)
    (torch.Size([1497, 1, 8, 8]), 300)
    """
    if side < 1:
        raise InputError(f"expected images of at least 1 pixel a side, got {side}")
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtraError("scikit-learn", extra="compare") from None
    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 8 - 1
    if side != SIDE:
        images = torch.nn.functional.interpolate(images, size=(side, side), mode="bilinear", antialias=side < SIDE)
    labels = torch.from_numpy(digits.target).long()
    return (
        LabelledImages(images[:-HELD_OUT], labels[:-HELD_OUT]),
        LabelledImages(images[-HELD_OUT:], labels[-HELD_OUT:]),
    )
