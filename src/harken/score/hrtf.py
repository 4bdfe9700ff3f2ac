"""Scores of head-related transfer functions: spectral distortion, level and time between ears, smoothness in space."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError
from harken.signal.minimum_phase import minimum_phase
from harken.signal.spherical_harmonics import unit_vectors


def spectral_distortion(
    estimate: Float[Tensor, "*batch directions values"], reference: Float[Tensor, "*batch directions values"]
) -> Float[Tensor, ""]:
    """Log-spectral distance in dB: root mean square over frequencies and ears, mean over directions and listeners.

    >>> field = torch.zeros(1, 4, 6)
    >>> float(spectral_distortion(field + 3, field))
    3.0
    """
    squares = (estimate - reference).square().mean(-1)
    return (squares + torch.finfo(squares.dtype).tiny).sqrt().mean()


def level_difference(field: Float[Tensor, "*batch directions values"]) -> Float[Tensor, "*batch directions"]:
    """Interaural level difference in dB: mean over frequencies, left ear minus right.

    >>> level_difference(torch.tensor([[4.0, 6.0, 1.0, 1.0]]))
    tensor([4.])
    """
    left, right = field.chunk(2, -1)
    return (left - right).mean(-1)


def level_difference_error(
    estimate: Float[Tensor, "*batch directions values"], reference: Float[Tensor, "*batch directions values"]
) -> Float[Tensor, ""]:
    """Mean absolute error of :func:`level_difference`, dB."""
    return (level_difference(estimate) - level_difference(reference)).abs().mean()


class Neighbours(NamedTuple):
    """Which directions surround which: ``around`` has the neighbours of each of ``centres``, all of them of one number.

    Made by :func:`grid_neighbours` or :func:`angular_neighbours`.
    """

    centres: Int[Tensor, " centres"]
    around: Int[Tensor, "centres neighbours"]

    def to(self, device: torch.device | str) -> Neighbours:
        """The same on another device."""
        return Neighbours(self.centres.to(device), self.around.to(device))


def grid_neighbours(azimuths: int, elevations: int) -> Neighbours:
    """The four neighbours on a full grid, stored azimuth by azimuth; azimuth closes, the outer elevations are left out.

    Raises:
        InputError: fewer than three of either.

    >>> grid_neighbours(4, 3).around[0].tolist()  # of the direction (0, 1): from both azimuths, from both elevations
    [4, 10, 2, 0]
    """
    if min(azimuths, elevations) < 3:
        raise InputError(f"a grid of at least 3 x 3 directions is expected, got {azimuths} x {elevations}")
    index = torch.arange(azimuths * elevations).view(azimuths, elevations)
    around = (index.roll(-1, 0), index.roll(1, 0), index.roll(-1, 1), index.roll(1, 1))
    inner = slice(1, elevations - 1)
    return Neighbours(index[:, inner].flatten(), torch.stack([part[:, inner].flatten() for part in around], -1))


def angular_neighbours(directions: Float[Tensor, "directions 2"], count: int = 4) -> Neighbours:
    """The nearest directions of each by angle, on any grid.

    Args:
        directions: azimuth and elevation, degrees.
        count: of neighbours.

    Raises:
        InputError: not more directions than neighbours.
    """
    if len(directions) <= count:
        raise InputError(f"{len(directions)} directions have no {count} neighbours each: fewer neighbours, or more")
    vectors = unit_vectors(directions)
    closeness = (vectors @ vectors.T).fill_diagonal_(-2)
    return Neighbours(torch.arange(len(directions)), closeness.topk(count, -1).indices)


def dissimilarity(
    field: Float[Tensor, "*batch directions values"], neighbours: Neighbours
) -> Float[Tensor, "*batch centres values"]:
    """How far each direction is from the mean of its neighbours, dB."""
    around = field[..., neighbours.around.flatten(), :].unflatten(-2, tuple(neighbours.around.shape))
    return field[..., neighbours.centres, :] - around.mean(-2)


def neighbour_dissimilarity(
    estimate: Float[Tensor, "*batch directions values"],
    reference: Float[Tensor, "*batch directions values"],
    neighbours: Neighbours,
) -> Float[Tensor, ""]:
    """Mean squared error of :func:`dissimilarity`, dB squared: blind to any constant offset, it asks for the measured
    roughness, neither less nor more (HRTFformer, arXiv 2510.01891)."""
    return (dissimilarity(estimate, neighbours) - dissimilarity(reference, neighbours)).square().mean()


def time_difference(responses: Float[np.ndarray, "directions 2 taps"], rate: float) -> Float[np.ndarray, " directions"]:
    """Interaural time difference in seconds, positive where the left ear hears first (a source on the left).

    The difference between the ears' :func:`arrival`.

    Raises:
        InputError: another shape, or a response without sound.
    """
    times = arrival(responses, rate)
    return times[:, 1] - times[:, 0]


def arrival(
    responses: Float[np.ndarray, "directions ears taps"], rate: float, *, low_pass: float = 1500.0
) -> Float[np.ndarray, "directions ears"]:
    """By how much each response comes later than its version of minimum phase, seconds.

    Where the cross-correlation of the two, below ``low_pass`` Hz or so, has its peak, interpolated between samples
    (Nam, Abel and Smith, 2008). Unlike a threshold it does not mind ringing before the first peak, and what is made
    with minimum phase and a delay has exactly that delay.

    Raises:
        InputError: another shape, or a response without sound.
    """
    if responses.ndim != 3:
        raise InputError(f"expected responses (directions, ears, taps), got shape {responses.shape}")
    peak = np.abs(responses).max(-1)
    if not np.isfinite(peak).all() or not (peak > 0).all():
        raise InputError("a response is silent or not finite: it never arrives")
    return np.concatenate(
        [_arrival(part, rate, low_pass) for part in np.array_split(responses, -(-len(responses) // 256))]
    )


def _arrival(responses: np.ndarray, rate: float, low_pass: float) -> np.ndarray:
    taps, factor = responses.shape[-1], 4
    size = max(1024, 4 * taps)
    spectrum = np.fft.rfft(responses, size, axis=-1)
    earliest = minimum_phase(torch.from_numpy(np.abs(spectrum)), size // 2).numpy()
    # gentle, without a delay of its own
    weight = np.exp2(-((np.fft.rfftfreq(size, 1 / rate) / low_pass) ** 2))
    cross = spectrum * np.conj(np.fft.rfft(earliest, size, axis=-1)) * weight
    correlation = np.fft.irfft(cross, size * factor, axis=-1)[..., : taps * factor]
    best = np.clip(correlation.argmax(-1), 1, taps * factor - 2)
    before, at, after = (np.take_along_axis(correlation, (best + i)[..., None], -1)[..., 0] for i in (-1, 0, 1))
    curve = before - 2 * at + after
    share = np.where(curve < 0, 0.5 * (before - after) / np.where(curve < 0, curve, -1.0), 0.0)
    return (best + np.clip(share, -1, 1)) / (rate * factor)


def score_hrtf(
    estimate: Float[Tensor, "directions values"],
    reference: Float[Tensor, "directions values"],
    directions: Float[Tensor, "directions 2"],
) -> dict[str, float]:
    """``lsd_db``, ``ild_error_db`` and ``neighbour_dissimilarity_db2`` of one listener's magnitudes.

    Raises:
        InputError: shapes that differ.
    """
    if estimate.shape != reference.shape or len(estimate) != len(directions):
        raise InputError(
            f"expected as many directions in both, got {tuple(estimate.shape)}, {tuple(reference.shape)} "
            f"and {len(directions)} directions"
        )
    scores = {
        "lsd_db": spectral_distortion(estimate, reference),
        "ild_error_db": level_difference_error(estimate, reference),
    }
    if len(directions) > 4:
        around = angular_neighbours(directions)
        scores["neighbour_dissimilarity_db2"] = neighbour_dissimilarity(estimate, reference, around)
    return {name: float(value) for name, value in scores.items()}
