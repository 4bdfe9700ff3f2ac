"""Bits a minute and agreement beyond chance, against numbers that others have published."""

from __future__ import annotations

import numpy as np
import pytest

from harken.errors import InputError
from harken.score.brain import cohen_kappa, information_transfer_rate


@pytest.mark.parametrize("classes", [2, 4, 40])
def test_bits_grow_above_chance_and_are_none_at_it_or_below(classes):
    accuracy = np.linspace(1 / classes, 1, 50)
    bits = information_transfer_rate(accuracy, classes, 0.4)
    assert bits[0] == pytest.approx(0, abs=1e-9)
    assert (np.diff(bits) > 0).all()
    assert bits[-1] == pytest.approx(np.log2(classes) * 60 / 0.9)
    assert not information_transfer_rate(np.linspace(0, 1 / classes, 5), classes, 0.4).any()


def test_the_gaze_takes_its_time():
    at_once = information_transfer_rate(0.9, 4, 0.5, gaze_shift=0.0)
    assert information_transfer_rate(0.9, 4, 0.5) == pytest.approx(at_once / 2)


@pytest.mark.parametrize(("accuracy", "classes", "window"), [(80, 4, 1), (0.5, 1, 1), (0.5, 4, -1), (np.nan, 4, 1)])
def test_what_cannot_be_is_refused(accuracy, classes, window):
    with pytest.raises(InputError, match="expected"):
        information_transfer_rate(accuracy, classes, window)


def test_kappa_is_scikit_learns():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(3, size=(2, 200))
    assert cohen_kappa(truth, predicted) == pytest.approx(cohen_kappa_score(truth, predicted))
    assert cohen_kappa(truth, truth) == 1
    assert cohen_kappa([1, 1], [1, 1]) == 1
    with pytest.raises(InputError, match="as many"):
        cohen_kappa([1], [1, 2])
