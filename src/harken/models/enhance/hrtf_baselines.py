"""HRTF upsampling that computes: what a network has to beat, with and without other listeners to learn from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.signal.spherical_harmonics import (
    FieldsOnGrid,
    SphericalFit,
    degree_of_each,
    real_spherical_harmonics,
    sparse_degree,
    unit_vectors,
)

RIDGE = 0.09  # 0.3 squared: dB of residual, against harmonics of norm one
KRIGING_DEGREE = 15


class Listeners:
    """Dense magnitudes of other listeners on one grid, and what may be known from them about a new one.

    Args:
        fields: dB, ``(listeners, directions, values)``, the left ear's frequencies before the right ear's.
        directions: azimuth and elevation, degrees.
        penalty: of kriging, where it is known already; learned from the listeners when None.

    Raises:
        InputError: no listeners, or shapes that do not fit.
    """

    def __init__(
        self,
        fields: Float[Tensor, "listeners directions values"],
        directions: Float[Tensor, "directions 2"],
        *,
        penalty: Float[Tensor, " degrees"] | None = None,
    ):
        if fields.ndim != 3 or not len(fields) or fields.shape[1] != len(directions):
            raise InputError(f"expected (listeners, directions, values), got {tuple(fields.shape)}")
        self.fields, self.directions = fields, directions
        self.mean_field = fields.mean(0)
        self.grid = FieldsOnGrid(directions)
        self._penalty = penalty

    def at(
        self, fields: Float[Tensor, "*batch directions values"], wanted: Float[Tensor, "wanted 2"]
    ) -> Float[Tensor, "*batch wanted values"]:
        """Fields on the grid, in other directions."""
        return self.grid.at(fields, wanted)

    @property
    def penalty(self) -> Float[Tensor, " degrees"]:
        """Noise over variance of each degree of the listeners' differences: what kriging goes by."""
        if self._penalty is None:
            self._penalty = learned_penalty(self.fields - self.mean_field, self.directions)
        return self._penalty


def learned_penalty(
    residuals: Float[Tensor, "listeners directions values"],
    directions: Float[Tensor, "directions 2"],
    *,
    degree: int = KRIGING_DEGREE,
    noise: float = 1.0,
) -> Float[Tensor, " degrees"]:
    """The ratio of noise to variance for each degree, of fields around their mean.

    Args:
        residuals: dB.
        directions: of the grid.
        degree: the highest; beyond what the grid can tell, the penalty grows with the fourth power of the degree.
        noise: variance of what a direction has for itself, dB squared: it hardly matters from 0.3 to 3.
    """
    known = min(degree, sparse_degree(len(directions)))
    fit = SphericalFit(directions.double(), known, ridge=1e-3, penalty="degree")
    power = fit.coefficients(residuals).square().mean((0, 2))
    each = degree_of_each(known).long()
    variance = torch.zeros(known + 1).index_add(0, each, power.float()) / torch.bincount(each)
    penalty = noise / variance.clamp_min(1e-6)
    beyond = torch.arange(known + 1, degree + 1) / max(known, 1)
    return torch.cat((penalty, penalty[-1] * beyond**4))


class Measured(NamedTuple):
    """What is known of a new listener, and where more is wanted."""

    magnitudes: Float[Tensor, "points values"]
    directions: Float[Tensor, "points 2"]
    wanted: Float[Tensor, "directions 2"]


def nearest(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The nearest measured direction as it is."""
    closeness = unit_vectors(new.wanted.double()) @ unit_vectors(new.directions.double()).T
    return new.magnitudes[closeness.argmax(-1)]


def harmonics(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """Least squares with the spherical harmonics that so many directions allow."""
    return fitted(new, ridge=0.0)


def harmonics_ridge(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The same with a ridge that weighs high degrees, which a hole in the measurements does not explode."""
    return fitted(new, ridge=1e-4)


def fitted(new: Measured, *, ridge: float) -> Float[Tensor, "directions values"]:
    """Spherical harmonics of the measured directions, evaluated in the wanted ones."""
    degree = sparse_degree(len(new.directions))
    fit = SphericalFit(new.directions.double(), degree, ridge=ridge, penalty="degree" if ridge else "even")
    return _evaluate(fit.coefficients(new.magnitudes), degree, new.wanted)


def training_mean(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The mean of the other listeners; nothing of the new one."""
    others = _needed(listeners, "training-mean")
    return others.at(others.mean_field, new.wanted)


def best_match(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The other listener who is nearest, by log-spectral distance in the measured directions."""
    others = _needed(listeners, "best-match")
    distance = (others.at(others.fields, new.directions) - new.magnitudes).square().mean(-1).sqrt().mean(-1)
    return others.at(others.fields[int(distance.argmin())], new.wanted)


def mean_and_harmonics(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The mean of the other listeners, and a ridge fit of what is left of the new one in the measured directions."""
    others = _needed(listeners, "mean-harmonics")
    mean = others.at(others.mean_field, new.directions)
    degree = sparse_degree(len(new.directions))
    fit = SphericalFit(new.directions.double(), degree, ridge=RIDGE)
    left = _evaluate(fit.coefficients(new.magnitudes - mean), degree, new.wanted)
    return others.at(others.mean_field, new.wanted) + left


def kernel_ridge(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """Linear kernel ridge regression: the new listener as a mixture of the others.

    With residuals to the mean ``X`` (of the others) and ``x`` in the measured directions and ``Y`` in the wanted ones:
    ``mean + x X^T (X X^T + ridge)^-1 Y``. The ridge is the one that predicts each of the others best from the rest,
    which the kernel tells without refitting.
    """
    others = _needed(listeners, "kernel-ridge")
    mean = others.at(others.mean_field, new.directions)
    known = (others.at(others.fields, new.directions) - mean).flatten(1).double()
    kernel = known @ known.T
    centred = (others.fields - others.mean_field).flatten(1).double()
    across = centred @ centred.T
    kernel_scale = float(kernel.diagonal().mean())
    if kernel_scale == 0:
        return others.at(others.mean_field, new.wanted)
    identity = torch.eye(len(kernel), dtype=kernel.dtype)
    best: tuple[float, Tensor] | None = None
    for factor in _RIDGES:
        inverse = torch.linalg.inv(kernel + factor * kernel_scale * identity)
        # leaving one out leaves (1 - h_ij) / (1 - h_ii) of each: squared, through the kernel of the whole fields
        errors = inverse / inverse.diagonal()[:, None]
        loss = float((errors @ across * errors).sum())
        if best is None or loss < best[0]:
            best = (loss, inverse)
    assert best is not None
    shares = (new.magnitudes - mean).flatten().double() @ known.T @ best[1]
    made = torch.einsum("l,ldv->dv", shares.to(others.fields), others.fields - others.mean_field)
    return others.at(others.mean_field + made, new.wanted)


def kriging(new: Measured, listeners: Listeners | None = None) -> Float[Tensor, "directions values"]:
    """The mean of the other listeners, and a Gaussian process for what is left of the new one.

    The process is isotropic on the sphere, and as smooth as the others' differences to their mean are: the variance of
    each degree of the harmonics is theirs.
    """
    others = _needed(listeners, "kriging")
    degree = len(others.penalty) - 1
    fit = SphericalFit(new.directions.double(), degree, ridge=1.0, penalty=others.penalty)
    left = new.magnitudes - others.at(others.mean_field, new.directions)
    return others.at(others.mean_field, new.wanted) + _evaluate(fit.coefficients(left), degree, new.wanted)


_RIDGES = tuple(10 ** (power / 4) for power in range(-12, 9))


def _needed(listeners: Listeners | None, name: str) -> Listeners:
    if listeners is None:
        raise InputError(f"'{name}' learns from other listeners: name a folder of them with --training")
    return listeners


def _evaluate(coefficients: Tensor, degree: int, wanted: Tensor) -> Tensor:
    return real_spherical_harmonics(wanted.double(), degree).to(coefficients) @ coefficients


Baseline = Callable[[Measured, Listeners | None], Tensor]

# name -> function, and whether it needs other listeners
BASELINES: dict[str, tuple[Baseline, bool]] = {
    "nearest": (nearest, False),
    "harmonics": (harmonics, False),
    "harmonics-ridge": (harmonics_ridge, False),
    "training-mean": (training_mean, True),
    "best-match": (best_match, True),
    "mean-harmonics": (mean_and_harmonics, True),
    "kernel-ridge": (kernel_ridge, True),
    "kriging": (kriging, True),
}
