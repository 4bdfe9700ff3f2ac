"""Listeners that nobody measured: smooth random fields with minimum phase, and the delays of a sphere."""

from __future__ import annotations

import numpy as np
import torch

from harken.data.hrtf import HRIRs, equiangular_grid
from harken.signal.interaural_delay import woodworth
from harken.signal.minimum_phase import delayed, minimum_phase
from harken.signal.spherical_harmonics import mirrored, real_spherical_harmonics

GRID = equiangular_grid(30.0, lowest=-60.0)
RATE, TAPS = 16000, 32


def listener(seed: int, directions: np.ndarray = GRID, *, rate: int = RATE, taps: int = TAPS, radius=0.09) -> HRIRs:
    """A listener; the same seed is the same one in any directions, and at any rate."""
    rng = torch.Generator().manual_seed(seed)
    bends, degree = 6, 3
    left = torch.randn((degree + 1) ** 2, bends, generator=rng, dtype=torch.double) * 4
    left[2] += 0.0
    left[1] -= 12.0  # the near ear hears more
    right = mirrored(left) + torch.randn(left.shape, generator=rng, dtype=torch.double)
    at = torch.from_numpy(np.asarray(directions, np.float64))
    basis = real_spherical_harmonics(at, degree)
    frequency = torch.linspace(0, 1, 257, dtype=torch.double) * rate / RATE
    waves = torch.cos(torch.pi * torch.arange(bends)[:, None] * frequency.clamp(max=1))
    decibels = torch.stack([basis @ ear @ waves for ear in (left, right)], 1) / bends
    responses = minimum_phase(10 ** (decibels / 20), taps)
    times = woodworth(at, radius)
    arrivals = torch.stack((0.0005 - times / 2, 0.0005 + times / 2), -1) * rate
    made = delayed(torch.nn.functional.pad(responses, (0, taps)), arrivals)
    return HRIRs(made.float().numpy(), at.numpy(), float(rate), 1.2, f"nobody-{seed}")
