"""Iterative up- and down-projection along one axis: back-projection networks (arXiv 1803.02735) in one dimension."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.errors import InputError

ConvNorm = Literal["batch", "layer"]


class IterativeProjection(nn.Module):
    """Doubles a length by going up and down several times; each turn mends what the last one could not undo.

    ``up(x) = h0 + deconv(conv(h0) - x)`` with ``h0 = deconv(x)``, and ``down`` its mirror. Every turn after the second
    up and the first down reads all earlier results of its kind, merged by a convolution of width 1; all ups together
    make the output.

    Args:
        channels: of the input and inside.
        out_channels: of the output.
        ups: up-projections, at least 2.
        kernel, stride, padding: of the convolutions that change the length.
        norm: after each convolution: see :func:`conv_norm`.

    Raises:
        InputError: fewer than 2 ups.

    Shape: ``(batch, channels, length)`` to ``(batch, out_channels, 2 * length)``.

    >>> IterativeProjection(4, 6)(torch.randn(2, 4, 7)).shape
    torch.Size([2, 6, 14])
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        *,
        ups: int = 5,
        kernel: int = 4,
        stride: int = 2,
        padding: int = 1,
        norm: ConvNorm = "batch",
    ):
        super().__init__()
        if ups < 2:
            raise InputError(f"an iterative projection goes up at least twice, got ups={ups}")

        def turn(upwards: bool, earlier: int) -> Projection:
            return Projection(channels, upwards, earlier, kernel, stride, padding, norm)

        self.ups = nn.ModuleList(turn(True, max(1, number)) for number in range(ups))
        self.downs = nn.ModuleList(turn(False, number + 1) for number in range(ups - 1))
        self.out = ConvUnit(nn.Conv1d(ups * channels, out_channels, 3, padding=1, bias=False), norm)

    def forward(self, x: Float[Tensor, "batch channels length"]) -> Float[Tensor, "batch out_channels doubled"]:
        high = [self.ups[0](x)]
        low: list[Tensor] = []
        for number, down in enumerate(self.downs):
            low.insert(0, down(torch.cat(high, 1)))
            high.insert(0, self.ups[number + 1](torch.cat(low, 1)))
        return self.out(torch.cat(high, 1))


class Projection(nn.Module):
    """One way up (or down), the way back, and the difference up (or down) again."""

    def __init__(
        self, channels: int, upwards: bool, earlier: int, kernel: int, stride: int, padding: int, norm: ConvNorm
    ):
        super().__init__()

        def unit(longer: bool) -> ConvUnit:
            kind = nn.ConvTranspose1d if longer else nn.Conv1d
            return ConvUnit(kind(channels, channels, kernel, stride, padding, bias=False), norm)

        self.merge = None
        if earlier > 1:
            self.merge = ConvUnit(nn.Conv1d(earlier * channels, channels, 1, bias=False), norm)
        self.first, self.second, self.third = unit(upwards), unit(not upwards), unit(upwards)

    def forward(self, x: Float[Tensor, "batch merged length"]) -> Float[Tensor, "batch channels other"]:
        if self.merge is not None:
            x = self.merge(x)
        there = self.first(x)
        return there + self.third(self.second(there) - x)


class ConvUnit(nn.Module):
    """A convolution, a norm, and a PReLU with one slope."""

    def __init__(self, conv: nn.Conv1d | nn.ConvTranspose1d, norm: ConvNorm):
        super().__init__()
        self.conv, self.norm, self.act = conv, conv_norm(norm, conv.out_channels), nn.PReLU()

    def forward(self, x: Float[Tensor, "batch channels length"]) -> Float[Tensor, "batch out_channels other"]:
        return self.act(self.norm(self.conv(x)))


def conv_norm(kind: ConvNorm, channels: int) -> nn.Module:
    """``"batch"``, or ``"layer"``: over all channels and positions of an item, so that a batch may be small.

    Raises:
        InputError: another name.
    """
    if kind == "batch":
        return nn.BatchNorm1d(channels)
    if kind == "layer":
        return nn.GroupNorm(1, channels)
    raise InputError(f"norm must be batch or layer, got {kind!r}")
