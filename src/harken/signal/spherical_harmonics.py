"""Real spherical harmonics on any set of directions, and fits of fields that were sampled there."""

from __future__ import annotations

import copy
import math
from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError

Penalty = Literal["even", "degree"]


def real_spherical_harmonics(
    directions: Float[Tensor, "directions 2"], degree: int
) -> Float[Tensor, "directions coefficients"]:
    """Values of the orthonormal real spherical harmonics up to a degree, ``(degree + 1)^2`` of them.

    With ``x = -sin(elevation)`` and the normalised Legendre functions ``P`` without the Condon-Shortley phase:
    ``P_n0(x)`` for order 0, ``sqrt(2) P_nm(x) cos(m azimuth) (-1)^m`` for ``m > 0`` and
    ``-sqrt(2) P_n|m|(x) sin(|m| azimuth)`` for ``m < 0``: the convention of HRTFformer (arXiv 2510.01891), whose
    azimuth begins behind the head and whose pole lies below it. They are ordered degree by degree, and by order from
    ``-n`` to ``n`` within each. The recursion (Holmes and Featherstone, 2002) is stable far beyond degree 100.

    Args:
        directions: azimuth (counter-clockwise from the front) and elevation, degrees.
        degree: the highest.

    Returns:
        in the precision of ``directions``.

    Raises:
        InputError: a degree below 0.

    >>> real_spherical_harmonics(torch.tensor([[0.0, 90.0]]), 1)
    tensor([[ 0.2821, -0.0000, -0.4886, -0.0000]])
    """
    if degree < 0:
        raise InputError(f"a degree of at least 0 is expected, got {degree}")
    azimuth, elevation = torch.deg2rad(directions.double()).unbind(-1)
    x, s = -elevation.sin(), elevation.cos()
    s = torch.where(s.abs() < 1e-15, torch.zeros_like(s), s)  # at the poles nothing depends on the azimuth
    columns: dict[tuple[int, int], Tensor] = {}
    sectoral = torch.full_like(x, math.sqrt(1 / (4 * math.pi)))
    for m in range(degree + 1):
        if m:
            sectoral = sectoral * s * math.sqrt((2 * m + 1) / (2 * m))
        before, now = torch.zeros_like(x), sectoral
        cosine = math.sqrt(2) * (-1) ** m * torch.cos(m * azimuth)
        sine = -math.sqrt(2) * torch.sin(m * azimuth)
        for n in range(m, degree + 1):
            if n > m:
                a = math.sqrt((4 * n * n - 1) / (n * n - m * m))
                b = math.sqrt(max(0, (n - 1) ** 2 - m * m) / (4 * (n - 1) ** 2 - 1)) if n > 1 else 0.0
                before, now = now, a * (x * now - b * before)
            if m == 0:
                columns[n, 0] = now
            else:
                columns[n, m], columns[n, -m] = now * cosine, now * sine
    ordered = [columns[n, m] for n in range(degree + 1) for m in range(-n, n + 1)]
    return torch.stack(ordered, -1).to(directions.dtype)


def sparse_degree(points: int) -> int:
    """The degree that so many measured directions are asked for: ``max(1, floor(sqrt(points)) - 1)``.

    >>> [sparse_degree(points) for points in (3, 5, 9, 19, 27, 100)]
    [1, 1, 2, 3, 4, 9]
    """
    return max(1, math.isqrt(points) - 1)


def degree_of_each(degree: int) -> Float[Tensor, " coefficients"]:
    """The degree that each coefficient belongs to.

    >>> degree_of_each(1)
    tensor([0., 1., 1., 1.])
    """
    return torch.repeat_interleave(torch.arange(degree + 1), 2 * torch.arange(degree + 1) + 1).float()


def mirrored(coefficients: Float[Tensor, "*batch coefficients values"]) -> Float[Tensor, "*batch coefficients values"]:
    """The coefficients of the field seen in a mirror that swaps left and right: azimuth turned to its negative.

    >>> mirrored(torch.ones(4, 1)).flatten()
    tensor([ 1., -1.,  1.,  1.])
    """
    count = coefficients.shape[-2]
    signs = [-1.0 if m < 0 else 1.0 for n in range(math.isqrt(count)) for m in range(-n, n + 1)]
    return coefficients * coefficients.new_tensor(signs)[:, None]


class SphericalFit:
    """Coefficients of fields that were sampled in one set of directions, with the inverse computed once.

    Minimises ``|f - H c|^2 + ridge sum_i p_i c_i^2``, where the penalty ``p`` is 1 for all (``"even"``),
    ``(1 + n (n + 1))^2`` for degree ``n`` after Duraiswami (``"degree"``), or any of one's own; without a ridge it is
    the least-squares solution of smallest norm. With the ratio of noise to variance as the penalty of each degree, the
    fit is the posterior mean of a Gaussian process on the sphere: kriging. Fitting a batch is one matrix product.

    Args:
        directions: azimuth and elevation, degrees.
        degree: the highest; (degree + 1)^2 coefficients.
        ridge: 0 for plain least squares, which explodes where the directions leave a hole.
        penalty: how the ridge weighs degrees; a tensor has one entry for each.

    Raises:
        InputError: no directions, a ridge below 0, or a penalty that is not one positive number per degree.

    >>> directions = torch.tensor([[0.0, 0.0], [90.0, 0.0], [180.0, 0.0], [270.0, 0.0], [0.0, 90.0], [0.0, -90.0]])
    >>> fit = SphericalFit(directions.double(), 1)
    >>> field = directions[:, 1:].deg2rad().sin().double()  # how far up
    >>> torch.allclose(fit.evaluate(fit.coefficients(field)), field)
    True
    """

    def __init__(
        self,
        directions: Float[Tensor, "directions 2"],
        degree: int,
        *,
        ridge: float = 0.0,
        penalty: Penalty | Float[Tensor, " degrees"] = "even",
    ):
        if not len(directions) or not 0 <= ridge < math.inf:
            raise InputError(f"expected directions and a ridge of at least 0, got {len(directions)} and {ridge}")
        if isinstance(penalty, Tensor) and (penalty.shape != (degree + 1,) or not bool((penalty > 0).all())):
            raise InputError(f"a penalty needs one positive number for each of {degree + 1} degrees")
        self.degree, self._ridge, self._penalty = degree, ridge, penalty
        self.basis = real_spherical_harmonics(directions, degree)
        self.inverse = self._inverse(self.basis)

    def _inverse(self, basis: Tensor) -> Tensor:
        exact = basis.double()
        if self._ridge == 0:
            inverse = torch.linalg.pinv(exact, rtol=max(exact.shape) * torch.finfo(torch.float64).eps)
        else:
            inverse = _ridge_inverse(exact, self._ridge * self._penalties(self._penalty).to(exact.device))
        return inverse.to(basis.dtype)

    def pick(self, index: Int[Tensor, " chosen"]) -> SphericalFit:
        """The fit of only some of the directions; their harmonics are not computed again."""
        made = copy.copy(self)
        made.basis = self.basis[index]
        made.inverse = self._inverse(made.basis)
        return made

    def _penalties(self, penalty: Penalty | Tensor) -> Tensor:
        n = degree_of_each(self.degree)
        if isinstance(penalty, Tensor):
            return penalty.double()[n.long()]
        n = n.double()
        return torch.ones_like(n) if penalty == "even" else (1 + n * (n + 1)).square()

    def coefficients(
        self, field: Float[Tensor, "*batch directions values"]
    ) -> Float[Tensor, "*batch coefficients values"]:
        """The fit's coefficients, for each value that the field has."""
        return self.inverse.to(field) @ field

    def evaluate(
        self, coefficients: Float[Tensor, "*batch coefficients values"]
    ) -> Float[Tensor, "*batch directions values"]:
        """The field of coefficients in the directions of the fit."""
        return self.basis.to(coefficients) @ coefficients

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        self.basis, self.inverse = self.basis.to(device), self.inverse.to(device)
        return self


class FieldsOnGrid:
    """Fields that are known on a grid, asked for anywhere: as they are on the grid, by harmonics between.

    Args:
        directions: of the grid, azimuth and elevation, degrees.
        degree: of the harmonics between, bounded by what the grid can tell.
        ridge: of their fit, which weighs high degrees and keeps holes of the grid calm.

    >>> grid = FieldsOnGrid(torch.tensor([[0.0, 0.0], [90.0, 0.0], [180.0, 0.0], [270.0, 0.0]]))
    >>> grid.at(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[270.0, 0.0], [360.0, 0.0]]))
    tensor([[4.],
            [1.]])
    """

    def __init__(self, directions: Float[Tensor, "directions 2"], *, degree: int = 21, ridge: float = 1e-6):
        self.directions, self.ridge = directions, ridge
        self.degree = min(degree, sparse_degree(len(directions)))
        self._fit: SphericalFit | None = None

    def at(
        self, fields: Float[Tensor, "*batch directions values"], wanted: Float[Tensor, "wanted 2"]
    ) -> Float[Tensor, "*batch wanted values"]:
        """Fields in other directions."""
        closeness, index = (unit_vectors(wanted.double()) @ unit_vectors(self.directions.double()).T).max(-1)
        found, off = fields[..., index, :], closeness < _SAME
        if not bool(off.any()):
            return found
        if self._fit is None:
            self._fit = SphericalFit(self.directions.double(), self.degree, ridge=self.ridge, penalty="degree")
        basis = real_spherical_harmonics(wanted[off].double(), self.degree).to(fields)
        found = found.clone()
        found[..., off, :] = basis @ self._fit.coefficients(fields)
        return found


_SAME = 0.9999995  # cosine of 0.06 degrees: one direction, whatever the rounding


def unit_vectors(directions: Float[Tensor, "directions 2"]) -> Float[Tensor, "directions 3"]:
    """Front, left, up, of azimuth and elevation in degrees.

    >>> unit_vectors(torch.tensor([[90.0, 0.0]])).round().abs().tolist()
    [[0.0, 1.0, 0.0]]
    """
    azimuth, elevation = torch.deg2rad(directions).unbind(-1)
    return torch.stack((azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()), -1)


def _ridge_inverse(basis: Tensor, penalties: Tensor) -> Tensor:
    """``D H^T (H D H^T + 1)^-1`` with ``D = 1 / penalties``: as large as the directions, however many coefficients."""
    scaled = basis / penalties
    gram = scaled @ basis.T + torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
    return torch.linalg.solve(gram, scaled).T
