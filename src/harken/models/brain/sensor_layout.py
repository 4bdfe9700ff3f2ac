"""Where sensors are, as a flat map: from positions in metres, from names of the 10-05 system, or by their numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from harken.errors import InputError
from harken.models.brain.speech_decoding import UNKNOWN


def sensor_layout(
    channels: int,
    positions: Float[np.ndarray, "channels dims"] | None = None,
    ch_names: Sequence[str] | None = None,
) -> Float[np.ndarray, "channels 2"]:
    """A place in the unit square for each channel, -0.1 twice where a sensor has none.

    Three coordinates are a head's frame (x to the right, y to the front, z up) and are laid flat by azimuth and polar
    angle, then stretched to the square. Without positions the names are looked up in the 10-05 system, and channels
    that all have unknown names are laid out row by row: a place that says nothing but which channel it is.

    Raises:
        InputError: positions of another number of channels, or no sensor with a position.

    >>> sensor_layout(4).tolist()
    [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]
    """
    if positions is None:
        positions = None if ch_names is None else _by_name(ch_names)
        if positions is None or not np.isfinite(positions).any():
            side = math.ceil(math.sqrt(channels))
            number = np.arange(channels)
            return np.stack((number % side + 0.5, number // side + 0.5), 1) / side
    positions = np.asarray(positions, np.float64)
    if positions.shape not in ((channels, 2), (channels, 3)):
        raise InputError(
            f"expected positions of shape ({channels}, 2) or ({channels}, 3), got {positions.shape}: one row a channel"
        )
    known = np.isfinite(positions).all(1)
    if positions.shape[1] == 2:
        known &= ~(np.abs(positions - UNKNOWN) < 1e-6).all(1)
        flat = positions
    else:
        x, y, z = positions.T
        polar = np.arccos(np.clip(z / np.sqrt(np.square(positions).sum(1)).clip(1e-12), -1, 1))
        across = np.hypot(x, y).clip(1e-12)
        flat = np.stack((polar * x / across, polar * y / across), 1)
    if not known.any():
        raise InputError("no sensor has a known position: give positions, names of the 10-05 system, or neither")
    if positions.shape[1] == 3 or not ((flat[known] >= 0) & (flat[known] <= 1)).all():
        low, high = flat[known].min(0), flat[known].max(0)
        flat = np.where(high > low, (flat - low) / np.where(high > low, high - low, 1), 0.5)
    return np.where(known[:, None], flat, UNKNOWN)


def _by_name(names: Sequence[str]) -> Float[np.ndarray, "channels 3"] | None:
    if all(name.isdigit() for name in names):
        return None
    try:
        import mne
    except ImportError:
        return None
    # under its new name where MNE has it
    kind = "colin27_1005" if "colin27_1005" in mne.channels.get_builtin_montages() else "standard_1005"
    places = mne.channels.make_standard_montage(kind).get_positions()["ch_pos"]
    lower = {name.lower(): place for name, place in places.items()}
    return np.array([lower.get(name.lower(), (np.nan, np.nan, np.nan)) for name in names], np.float64)
