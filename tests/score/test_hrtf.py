"""Scores of HRTFs: nothing at identity, the right units, and neighbours by angle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.data.hrtf import equiangular_grid, sphere_grid
from harken.errors import InputError
from harken.score.hrtf import (
    angular_neighbours,
    arrival,
    dissimilarity,
    grid_neighbours,
    level_difference_error,
    neighbour_dissimilarity,
    score_hrtf,
    spectral_distortion,
    time_difference,
)
from tests.listeners import RATE, listener


def test_identity_scores_nothing_and_has_finite_gradients(seed):
    field = torch.randn(2, 30, 8, generator=seed, requires_grad=True)
    around = angular_neighbours(torch.from_numpy(sphere_grid(30)))
    total = (
        spectral_distortion(field, field.detach())
        + level_difference_error(field, field.detach())
        + neighbour_dissimilarity(field, field.detach(), around)
    )
    assert total.item() == pytest.approx(0, abs=1e-9)
    total.backward()
    assert field.grad is not None and bool(field.grad.isfinite().all())


def test_distortion_is_root_mean_square_within_a_direction_and_a_mean_over_them():
    reference = torch.zeros(2, 4)
    estimate = torch.tensor([[3.0, -3.0, 3.0, 3.0], [1.0, 1.0, -1.0, 1.0]])
    assert float(spectral_distortion(estimate, reference)) == pytest.approx(2.0)


def test_level_differences_are_of_means_over_frequency(seed):
    field = torch.randn(5, 8, generator=seed)
    louder = field.clone()
    louder[:, :4] += 2
    assert float(level_difference_error(louder, field)) == pytest.approx(2.0, abs=1e-5)


def test_neighbour_dissimilarity_is_blind_to_an_offset_and_hears_roughness(seed):
    field = torch.randn(24, 3, generator=seed)
    around = grid_neighbours(6, 4)
    assert float(neighbour_dissimilarity(field + 5, field, around)) == pytest.approx(0, abs=1e-9)
    assert float(neighbour_dissimilarity(torch.zeros_like(field), field, around)) > 0.1
    flat = torch.ones(24, 1)
    assert dissimilarity(flat, around).abs().max() == 0


def test_neighbours_on_a_grid_close_in_azimuth_and_end_in_elevation():
    around = grid_neighbours(6, 4)
    assert around.centres.tolist() == [a * 4 + e for a in range(6) for e in (1, 2)]
    assert sorted(around.around[0].tolist()) == [0, 2, 5, 21]


def test_neighbours_by_angle_are_those_of_the_grid_away_from_the_poles():
    directions = torch.from_numpy(equiangular_grid(10.0, lowest=-30.0))
    around = angular_neighbours(directions)
    index = int(((directions - torch.tensor([0.0, 0.0])).abs().sum(1)).argmin())
    found = {tuple(directions[i].tolist()) for i in around.around[index]}
    assert found == {(10.0, 0.0), (350.0, 0.0), (0.0, 10.0), (0.0, -10.0)}


def test_times_between_the_ears_are_those_of_the_sphere_they_were_made_with():
    one = listener(0)
    lateral = np.argmin(np.abs(one.directions - [90, 0]).sum(1))
    found = time_difference(one.responses, RATE)
    assert found[lateral] == pytest.approx(0.09 / 343 * (np.pi / 2 + 1), abs=3e-5)  # positive: a source on the left
    seen = np.argmin(np.abs(one.directions - [270, 0]).sum(1))
    assert found[seen] == pytest.approx(-found[lateral], abs=3e-5)


@pytest.mark.parametrize("bad", [np.zeros((1, 2, 8)), np.full((1, 2, 8), np.nan), np.ones((2, 8))])
def test_silence_nan_and_other_shapes_are_refused(bad):
    with pytest.raises(InputError):
        arrival(bad, 48000)


def test_a_listener_is_scored_in_named_units(seed):
    field = torch.randn(10, 6, generator=seed)
    directions = torch.from_numpy(sphere_grid(10))
    scores = score_hrtf(field + 1, field, directions)
    assert scores["lsd_db"] == pytest.approx(1.0, abs=1e-5)
    assert scores["neighbour_dissimilarity_db2"] == pytest.approx(0, abs=1e-9)
    with pytest.raises(InputError, match="as many directions"):
        score_hrtf(field, field[:5], directions)
    with pytest.raises(InputError, match="neighbours"):
        angular_neighbours(directions[:3])
    with pytest.raises(InputError, match="3 x 3"):
        grid_neighbours(2, 5)
