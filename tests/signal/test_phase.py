"""Phase distances do not see whole turns."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.signal.phase import anti_wrap, phase_distance


def phases(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple((torch.rand(2, 5, 7, generator=generator, dtype=torch.float64) - 0.5) * 2 * math.pi for _ in range(2))


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-20, 20), seed=st.integers(0, 100))
def test_a_constant_shift_moves_the_instantaneous_phase_alone(shift, seed):
    phase, _ = phases(seed)
    distance = phase_distance(phase, phase - shift)
    wrapped = abs(math.remainder(shift, 2 * math.pi))
    assert float(distance.instantaneous_phase) == pytest.approx(wrapped, abs=1e-9)
    assert float(distance.group_delay) == pytest.approx(0, abs=1e-9)
    assert float(distance.instantaneous_frequency) == pytest.approx(0, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 100))
def test_whole_turns_anywhere_move_nothing(seed):
    reference, estimate = phases(seed)
    turns = torch.randint(-3, 4, reference.shape, generator=torch.Generator().manual_seed(seed))
    turned = phase_distance(reference, estimate + 2 * math.pi * turns.double())
    for before, after in zip(phase_distance(reference, estimate), turned, strict=True):
        assert float(after) == pytest.approx(float(before), abs=1e-9)


def test_distances_lie_between_none_and_half_a_turn_and_are_symmetric():
    reference, estimate = phases(0)
    there, back = phase_distance(reference, estimate), phase_distance(estimate, reference)
    for one, other in zip(there, back, strict=True):
        assert 0 < float(one) < math.pi
        assert float(one) == pytest.approx(float(other))
    assert float(there.total) == pytest.approx(sum(map(float, there)))
    assert float(phase_distance(reference, reference).total) == 0


def test_a_slope_over_time_is_an_instantaneous_frequency_and_over_frequency_a_group_delay():
    reference = torch.zeros(1, 6, 8, dtype=torch.float64)
    over_time, over_frequency = 0.1 * torch.arange(8.0).double(), 0.2 * torch.arange(6.0).double()[:, None]
    distance = phase_distance(reference, reference + over_time)
    assert float(distance.instantaneous_frequency) == pytest.approx(0.1)
    assert float(distance.group_delay) == 0
    distance = phase_distance(reference, reference + over_frequency)
    assert float(distance.group_delay) == pytest.approx(0.2)
    assert float(distance.instantaneous_frequency) == 0


def test_anti_wrapping_is_differentiable_almost_everywhere():
    angle = torch.tensor([-7.0, -1.0, 0.5, 4.0], requires_grad=True)
    anti_wrap(angle).sum().backward()
    assert angle.grad.tolist() == [-1.0, -1.0, 1.0, -1.0]
