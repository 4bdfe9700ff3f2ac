"""Distances between wrapped phases, blind to whole turns (Ai and Ling, arXiv 2211.15974)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


def anti_wrap(angle: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How far an angle is from a whole turn, ``|x - 2 pi round(x / 2 pi)|``, in [0, pi].

    >>> anti_wrap(torch.tensor([0.0, 2 * math.pi, -math.pi / 2])).round(decimals=4)
    tensor([0.0000, 0.0000, 1.5708])
    """
    return (angle - 2 * math.pi * torch.round(angle / (2 * math.pi))).abs()


class PhaseDistance(NamedTuple):
    """Mean anti-wrapped differences in radians: of the phase itself, along frequency, and along time."""

    instantaneous_phase: Tensor
    group_delay: Tensor
    instantaneous_frequency: Tensor

    @property
    def total(self) -> Tensor:
        """The sum of the three."""
        return self.instantaneous_phase + self.group_delay + self.instantaneous_frequency


def phase_distance(
    reference: Float[Tensor, "batch bins frames"], estimate: Float[Tensor, "batch bins frames"], *, first: bool = False
) -> PhaseDistance:
    """Three views of a phase error ``e``: ``IP = f(e)``, ``GD = f(diff_F e)``, ``IAF = f(diff_T e)``; f anti-wraps.

    A constant shift moves IP alone; adding whole turns anywhere moves nothing. With ``first`` the differences begin
    with the first bin (and frame) itself, as some released losses have it; then a shift moves all three.
    """
    error = reference - estimate
    along = [
        error.diff(dim=dim, prepend=torch.zeros_like(error.narrow(dim, 0, 1)) if first else None) for dim in (1, 2)
    ]
    return PhaseDistance(anti_wrap(error).mean(), *(anti_wrap(difference).mean() for difference in along))
