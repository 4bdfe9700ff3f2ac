"""Minimum phase and delays: the magnitude stays, the energy comes first, and a delay is what was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.errors import InputError
from harken.score.hrtf import arrival
from harken.signal.interaural_delay import USUAL_RADIUS, fit_delays, woodworth
from harken.signal.minimum_phase import delayed, minimum_phase


def smooth(bins=513) -> torch.Tensor:
    frequency = torch.linspace(0, 1, bins, dtype=torch.double)
    return 10 ** ((8 * torch.cos(5 * frequency) - 6 * torch.sin(9 * frequency)) / 20)


def test_the_magnitude_stays():
    magnitude = smooth()
    response = minimum_phase(magnitude, 256)
    error = 20 * torch.log10(torch.fft.rfft(response, 1024).abs() / magnitude)
    assert error.abs().max() < 0.1


def test_no_response_of_that_magnitude_has_its_energy_earlier():
    response = minimum_phase(smooth(), 512)
    other = torch.fft.irfft(
        torch.fft.rfft(response, 1024) * torch.polar(torch.ones(513), torch.randn(513)).to(torch.complex128)
    )
    early, late = (part.square().cumsum(0) for part in (response, other[:512]))
    assert bool((early >= late - 1e-9).all())


@pytest.mark.parametrize("samples", [0.0, 3.0, 7.25])
def test_a_delay_is_heard_as_such(samples):
    response = minimum_phase(smooth(), 128)
    moved = delayed(response, torch.tensor(samples, dtype=torch.double))
    assert arrival(moved[None, None].numpy(), 48000)[0, 0] * 48000 == pytest.approx(samples, abs=0.1)


def test_silence_gives_no_nan():
    assert bool(minimum_phase(torch.zeros(65), 16).isfinite().all())


@pytest.mark.parametrize(("bins", "taps"), [(2, 1), (65, 200), (65, 0)])
def test_impossible_lengths_are_refused(bins, taps):
    with pytest.raises(InputError, match="taps"):
        minimum_phase(torch.ones(bins), taps)


def directions(count, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack((rng.uniform(0, 360, count), rng.uniform(-60, 90, count)), -1))


def test_a_sphere_is_found_from_its_delays():
    at = directions(6)
    found = fit_delays(at, woodworth(at, 0.095))
    assert (found.radius, found.degree) == (pytest.approx(0.095), 0)
    assert found.error < 1e-9
    assert "9.5 cm" in found.method


def test_what_a_sphere_does_not_tell_is_mended_from_nine_directions_on():
    at, elsewhere = directions(60), directions(40, seed=1)

    def bent(places):
        return woodworth(places, 0.09) + 5e-5 * torch.deg2rad(places[:, 1]).sin()

    found = fit_delays(at, bent(at))
    assert found.degree > 0
    sphere = woodworth(elsewhere, found.radius)
    assert (found.at(elsewhere) - bent(elsewhere)).abs().mean() < 0.2 * (sphere - bent(elsewhere)).abs().mean()


def test_the_median_plane_alone_tells_no_radius():
    at = torch.tensor([[0.0, 0.0], [0.0, 60.0], [180.0, 0.0]])
    assert fit_delays(at, torch.zeros(3)).radius == USUAL_RADIUS


def test_times_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite times"):
        fit_delays(directions(2), torch.tensor([0.0, torch.nan]))
