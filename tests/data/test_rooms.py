"""Rooms that nobody built."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from harken.data.rooms import room_responses
from harken.errors import InputError, MissingExtraError


@pytest.fixture(scope="module")
def rooms() -> list[np.ndarray]:
    pytest.importorskip("pyroomacoustics")
    return room_responses(4, 8000, seed=1)


def test_responses_begin_with_a_direct_sound_of_one_and_are_bounded(rooms):
    for response in rooms:
        assert response.dtype == np.float32
        assert np.isfinite(response).all()
        assert np.abs(response[:12]).max() == pytest.approx(1)
        assert 0.1 < len(response) / 8000 <= 0.85


def test_they_decay_as_rooms_do(rooms):
    for response in rooms:
        energy = np.cumsum(response[::-1].astype(float) ** 2)[::-1]
        decibel = 10 * np.log10(energy / energy[0])
        seconds = (np.argmax(decibel < -25) - np.argmax(decibel < -5)) * 3 / 8000
        assert 0.05 < seconds < 1.0


def test_each_is_another_room_and_a_seed_makes_the_same(rooms):
    assert len({len(response) for response in rooms}) > 1
    assert np.array_equal(room_responses(1, 8000, seed=1)[0], rooms[0])
    assert not np.array_equal(room_responses(1, 8000, seed=2)[0][:100], rooms[0][:100])


def test_what_is_no_count_or_rate_is_refused():
    for arguments in ((0, 16000), (1, 0)):
        with pytest.raises(InputError, match="at least one room"):
            room_responses(*arguments)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyroomacoustics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'harken\[rooms\]'"):
        room_responses(1, 16000)
