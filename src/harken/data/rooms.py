"""Impulse responses of rooms that nobody built: what reverberation to train against is made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harken.errors import InputError, MissingExtraError

Waveform = NDArray[np.float32]

_SPEED_OF_SOUND = 343.0
_IMAGES = 300_000  # image sources in one room at most: bounds time and memory
_LONGEST = 0.85  # seconds of a response


def room_responses(count: int, sample_rate: int, seed: int = 0) -> list[Waveform]:
    """Impulse responses of random shoebox rooms, by the image-source method (Allen and Berkley 1979).

    Rooms measure 3 to 10 by 3 to 8 by 2.5 to 4 m, and reverberate for 0.15 to 0.8 s (RT60 by Sabine's formula), small
    ones for less, large ones for more. Talker and microphone stand 0.5 to 3 m apart, 0.4 m or more from every wall.

    Args:
        count: how many.
        sample_rate: in Hz.
        seed: of all of them: response ``i`` does not depend on ``count``.

    Returns:
        responses of at most 0.85 s that begin with the direct sound, whose peak is 1.

    Raises:
        InputError: a count or rate that is not positive.
        MissingExtraError: pyroomacoustics is not installed.
    """
    if count < 1 or not 1000 <= sample_rate <= 384_000:
        raise InputError(f"expected at least one room and a rate of 1 to 384 kHz, got {count} at {sample_rate} Hz")
    return [_response(sample_rate, np.random.default_rng((seed, i))) for i in range(count)]


def _response(sample_rate: int, rng: np.random.Generator) -> Waveform:
    try:
        import pyroomacoustics
    except ImportError:
        raise MissingExtraError("pyroomacoustics", extra="rooms") from None
    size = rng.uniform((3.0, 3.0, 2.5), (10.0, 8.0, 4.0))
    volume = float(size.prod())
    surface = float(2 * (size[0] * size[1] + size[0] * size[2] + size[1] * size[2]))
    sabine = 24 * np.log(10) / _SPEED_OF_SOUND * volume / surface
    # as dry as walls can be, and as live as the number of image sources within its reach allows
    longest = (_IMAGES * volume * 3 / (4 * np.pi)) ** (1 / 3) / _SPEED_OF_SOUND
    rt60 = rng.uniform(max(0.15, sabine / 0.9), min(0.8, longest))
    talker, microphone = _places(size, rng)
    room = pyroomacoustics.ShoeBox(
        size,
        fs=sample_rate,
        materials=pyroomacoustics.Material(sabine / rt60),
        max_order=pyroomacoustics.inverse_sabine(rt60, size)[1],
    )
    room.add_source(talker)
    room.add_microphone(microphone)
    room.compute_rir()
    response = np.asarray(room.rir[0][0])
    # the package delays everything by half the length of its interpolation filter
    delay = pyroomacoustics.constants.get("frac_delay_length") // 2
    direct = delay + int(np.linalg.norm(talker - microphone) / pyroomacoustics.constants.get("c") * sample_rate)
    peak = float(np.abs(response[max(0, direct - 1) : direct + 3]).max())
    start = max(0, direct - sample_rate // 2000)
    return (response[start : start + round(_LONGEST * sample_rate)] / peak).astype(np.float32)


def _places(size: NDArray[np.float64], rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two points in a room, 0.5 to 3 m apart; there is room for that in the smallest."""
    while True:
        first, second = rng.uniform(0.4, size - 0.4), rng.uniform(0.4, size - 0.4)
        if 0.5 <= np.linalg.norm(first - second) <= 3.0:
            return first, second
