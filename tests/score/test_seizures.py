"""Events of a course of probabilities, and what they are worth."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harken.errors import InputError
from harken.score.seizures import f1_score, find_events, inside, score_events

TIMES = np.arange(1.0, 11.0)


def course(*positive: int) -> np.ndarray:
    probability = np.zeros(10)
    probability[list(positive)] = 0.9
    return probability


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [(2.0, 4.0), (5.0, 6.0), (9.0, 10.0)]),
        ({"gap": 1.5}, [(2.0, 6.0), (9.0, 10.0)]),
        ({"shortest": 2.0}, [(2.0, 4.0)]),
        ({"gap": 1.5, "shortest": 2.0}, [(2.0, 6.0)]),
        ({"threshold": 0.95}, []),
        ({"window": 3.0}, [(0.0, 6.0), (7.0, 10.0)]),  # windows overlap: one event
    ],
)
def test_stretches_above_the_threshold_are_events(options, expected):
    assert find_events(TIMES, course(2, 3, 5, 9), **{"window": 1.0, **options}) == expected


def test_no_windows_have_no_events():
    assert find_events(np.zeros(0), np.zeros(0)) == []


def test_any_overlap_finds_an_event_and_touching_is_none():
    score = score_events([(10, 20), (30, 40)], [(5, 10), (12, 13), (14, 15), (50, 60)], 3600)
    assert (score.found, score.missed, score.false, score.false_per_hour) == (1, 1, 2, 2.0)
    assert (score.sensitivity, score.precision) == (0.5, 0.5)
    assert score.f1 == pytest.approx(0.5)


def test_without_events_there_is_nothing_to_divide_by_and_json_says_so():
    score = score_events([], [], 60)
    assert math.isnan(score.sensitivity)
    assert json.loads(json.dumps(score.as_json()))["precision"] is None
    assert score_events([(1, 2)], [], 60).f1 == 0


def test_windows_that_end_in_an_event_are_its():
    assert inside(TIMES, [(2.0, 4.0)]).tolist() == [False, False, True, True] + [False] * 6
    assert not inside(TIMES, []).any()
    assert f1_score(inside(TIMES, [(0, 4)]), inside(TIMES, [(2, 6)])) == pytest.approx(0.5)
    assert f1_score(np.zeros(3, bool), np.zeros(3, bool)) == 0


@pytest.mark.parametrize(
    ("times", "probability"), [([1.0, 1.0], [0, 0]), ([1.0], [0, 0]), ([1.0], [1.5]), ([1.0], [math.nan])]
)
def test_impossible_courses_are_refused(times, probability):
    with pytest.raises(InputError):
        find_events(np.array(times), np.array(probability))


def test_impossible_events_are_refused():
    with pytest.raises(InputError):
        score_events([(2, 1)], [], 10)
    with pytest.raises(InputError):
        score_events([], [], 0)
