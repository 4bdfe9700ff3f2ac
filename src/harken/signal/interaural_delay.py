"""How much earlier the nearer ear hears: Woodworth's sphere, fitted to measured times and mended between them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.signal.spherical_harmonics import SphericalFit, real_spherical_harmonics, sparse_degree, unit_vectors

SPEED_OF_SOUND = 343.0  # m/s, at 20 degrees
USUAL_RADIUS = 0.0875  # m, of a grown-up's head
_RADII = (0.05, 0.15)
_FEWEST = 9  # measured directions from which on the sphere is mended


def woodworth(directions: Float[Tensor, "directions 2"], radius: float = USUAL_RADIUS) -> Float[Tensor, " directions"]:
    """Interaural time difference of a rigid sphere in seconds, positive where the source is on the left.

    ``radius / c * (angle + sin(angle))`` of the lateral angle (Woodworth, 1938).

    >>> float(woodworth(torch.tensor([[90.0, 0.0]]))) * 1e6
    655.8...
    """
    lateral = unit_vectors(directions)[..., 1].clamp(-1, 1)
    return radius / SPEED_OF_SOUND * (lateral.asin() + lateral)


class DelayModel(NamedTuple):
    """A listener's interaural time differences in any direction.

    Attributes:
        radius: of the sphere that fits the measured ones best, metres.
        degree: of the harmonics that mend it, 0 for none.
        coefficients: theirs, seconds.
        error: root mean square of what is left in the measured directions, seconds.
    """

    radius: float
    degree: int
    coefficients: Tensor
    error: float

    def at(self, directions: Float[Tensor, "directions 2"]) -> Float[Tensor, " directions"]:
        """Seconds, positive where the source is on the left."""
        times = woodworth(directions.double(), self.radius)
        if self.degree:
            times = times + real_spherical_harmonics(directions.double(), self.degree) @ self.coefficients
        return times

    @property
    def method(self) -> str:
        """In words."""
        sphere = f"a sphere of {100 * self.radius:.1f} cm (Woodworth)"
        return f"{sphere}, mended by harmonics of degree {self.degree}" if self.degree else sphere


def fit_delays(directions: Float[Tensor, "points 2"], times: Float[Tensor, " points"]) -> DelayModel:
    """Fit a sphere to measured interaural time differences; from nine directions on, harmonics to what is left.

    Directions in the median plane alone do not tell the radius: a usual one is taken.

    Args:
        directions: azimuth and elevation, degrees.
        times: seconds, positive where the source is on the left.

    Raises:
        InputError: nothing measured, or times that are not finite.
    """
    if not len(directions) or len(directions) != len(times) or not bool(torch.isfinite(times).all()):
        raise InputError(f"expected finite times for {len(directions)} measured directions, got {len(times)}")
    times = times.double()
    unit = woodworth(directions.double(), 1.0)
    power = float(unit @ unit)
    radius = float(unit @ times) / power if power > 1e-12 * len(times) else USUAL_RADIUS
    radius = min(max(radius, _RADII[0]), _RADII[1])
    left = times - radius * unit
    degree, coefficients = 0, left.new_zeros(1)
    if len(directions) >= _FEWEST:
        degree = min(4, sparse_degree(len(directions)))
        # 30 microseconds of measurement noise, differences of some tens per harmonic
        fit = SphericalFit(directions.double(), degree, ridge=0.3, penalty="even")
        coefficients = fit.coefficients(left[:, None])[:, 0]
        left = left - fit.evaluate(coefficients[:, None])[:, 0]
    return DelayModel(radius, degree, coefficients, float(left.square().mean().sqrt()))
