"""Spherical harmonics: orthonormal, exact for what is band-limited, and calm where the directions leave a hole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.data.hrtf import equiangular_grid, sphere_grid
from harken.errors import InputError
from harken.signal.spherical_harmonics import (
    FieldsOnGrid,
    SphericalFit,
    degree_of_each,
    mirrored,
    real_spherical_harmonics,
)


def some(count: int, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        np.stack((rng.uniform(0, 360, count), np.degrees(np.arcsin(rng.uniform(-1, 1, count)))), -1)
    )


def test_they_are_scipys_in_the_papers_convention():
    special = pytest.importorskip("scipy.special")
    directions = some(40)
    azimuth, elevation = np.radians(directions.numpy()).T
    ours = real_spherical_harmonics(directions, 12).numpy()
    for index, (n, m) in enumerate((degree, order) for degree in range(13) for order in range(-degree, degree + 1)):
        value = special.sph_harm_y(n, m, np.pi / 2 + elevation, np.pi + azimuth)
        real = value.real if m == 0 else np.sqrt(2) * (-1.0) ** m * (value.real if m > 0 else value.imag)
        np.testing.assert_allclose(ours[:, index], real, atol=1e-12)


def test_an_even_grid_makes_them_orthonormal():
    basis = real_spherical_harmonics(torch.from_numpy(sphere_grid(4000)), 8)
    product = basis.T @ basis * (4 * torch.pi / 4000)
    torch.testing.assert_close(product, torch.eye(81, dtype=torch.double), atol=3e-3, rtol=0)


def test_a_high_degree_stays_finite_and_obeys_the_addition_theorem():
    basis = real_spherical_harmonics(some(20), 60)
    torch.testing.assert_close(basis.square().sum(1), torch.full((20,), 61**2 / (4 * torch.pi), dtype=torch.double))


def test_a_band_limited_field_is_found_exactly():
    directions = some(60)
    wanted = torch.randn(16, 5, dtype=torch.double)
    fit = SphericalFit(directions, 3)
    torch.testing.assert_close(fit.coefficients(fit.evaluate(wanted)), wanted)


def test_a_turn_about_the_vertical_axis_mixes_only_orders_of_one_size():
    directions = torch.from_numpy(sphere_grid(300))
    fit = SphericalFit(directions, 4)
    turned = SphericalFit(directions + torch.tensor([37.0, 0.0]), 4)
    moved = fit.inverse @ turned.basis  # what turning does to coefficients
    orders = torch.tensor([abs(m) for n in range(5) for m in range(-n, n + 1)])
    each = degree_of_each(4)
    apart = (orders[:, None] != orders) | (each[:, None] != each)
    assert moved[apart].abs().max() < 1e-9
    torch.testing.assert_close(moved @ moved.T, torch.eye(25, dtype=torch.double))


def test_the_mirror_of_coefficients_is_the_field_at_negative_azimuths():
    directions, coefficients = some(30), torch.randn(25, 3, dtype=torch.double)
    seen = directions * torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(
        real_spherical_harmonics(directions, 4) @ mirrored(coefficients),
        real_spherical_harmonics(seen, 4) @ coefficients,
    )
    torch.testing.assert_close(mirrored(mirrored(coefficients)), coefficients)


def test_few_directions_get_the_smallest_coefficients_that_fit():
    directions, values = some(5), torch.randn(5, 2, dtype=torch.double)
    found = SphericalFit(directions, 3).coefficients(values)
    wanted = np.linalg.lstsq(real_spherical_harmonics(directions, 3).numpy(), values.numpy(), rcond=None)[0]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-9)


@pytest.mark.parametrize("penalty", ["even", "degree", torch.tensor([0.1, 1.0, 2.0, 5.0])])
def test_a_ridge_is_the_solution_of_its_normal_equations(penalty):
    directions, values = some(7), torch.randn(7, 2, dtype=torch.double)
    basis, n = real_spherical_harmonics(directions, 3), degree_of_each(3).double()
    if isinstance(penalty, torch.Tensor):
        weights = penalty.double()[n.long()]
    else:
        weights = torch.ones(16).double() if penalty == "even" else (1 + n * (n + 1)) ** 2
    wanted = torch.linalg.solve(basis.T @ basis + 0.3 * weights.diag(), basis.T @ values)
    torch.testing.assert_close(SphericalFit(directions, 3, ridge=0.3, penalty=penalty).coefficients(values), wanted)


def test_a_ridge_keeps_a_hole_calm():
    above = torch.from_numpy(equiangular_grid(10.0, lowest=-30.0))
    below = torch.from_numpy(equiangular_grid(10.0))
    below = below[below[:, 1] < -50]
    values = torch.randn(len(above), 1, dtype=torch.double, generator=torch.Generator().manual_seed(0))

    def worst(ridge):
        fit = SphericalFit(above, 15, ridge=ridge, penalty="degree")
        return (real_spherical_harmonics(below, 15) @ fit.coefficients(values)).abs().max()

    assert worst(1e-4) < 10 < worst(0.0)


def test_picking_directions_is_fitting_them():
    directions, index = some(30), torch.tensor([3, 8, 20, 1])
    penalty = torch.rand(5) + 0.1
    picked = SphericalFit(directions, 4, ridge=1.0, penalty=penalty).pick(index)
    alone = SphericalFit(directions[index], 4, ridge=1.0, penalty=penalty)
    torch.testing.assert_close(picked.inverse, alone.inverse)


def test_a_field_on_a_grid_is_itself_there_and_smooth_between():
    directions = torch.from_numpy(sphere_grid(200))
    values = real_spherical_harmonics(directions, 3)
    grid, between = FieldsOnGrid(directions), some(10)
    assert torch.equal(grid.at(values, directions[5:9]), values[5:9])
    torch.testing.assert_close(grid.at(values, between), real_spherical_harmonics(between, 3), atol=1e-2, rtol=0)


def test_gradients_reach_the_field():
    field = torch.zeros(10, 2, requires_grad=True)
    SphericalFit(some(10).float(), 2).coefficients(field).sum().backward()
    assert field.grad is not None and bool(field.grad.isfinite().all())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"degree": -1}, "degree of at least 0"),
        ({"degree": 2, "ridge": -1.0}, "ridge"),
        ({"degree": 2, "ridge": 1.0, "penalty": torch.ones(2)}, "each of 3 degrees"),
    ],
)
def test_impossible_fits_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        SphericalFit(some(4), **options)
