"""Euclidean alignment: what becomes the identity, what no longer matters, and what each mode may look at."""

from __future__ import annotations

import numpy as np
import pytest

from harken.errors import InputError

pytest.importorskip("sklearn")

from sklearn.base import clone

from harken.models.brain import load_estimator
from harken.models.brain.alignment import (
    EuclideanAlignment,
    RunningAlignment,
    inverse_square_root,
    mean_covariance,
)


def trials(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, 4)) @ rng.standard_normal((count, 4, 60)) * 1e-5


@pytest.mark.parametrize("mode", ["offline", "transductive"])
def test_the_mean_covariance_becomes_the_identity(mode):
    aligned = EuclideanAlignment(mode).fit_transform(trials())
    np.testing.assert_allclose(mean_covariance(aligned), np.eye(4), atol=1e-6)


def test_a_covariance_is_numpys():
    np.testing.assert_allclose(mean_covariance(trials(1)), np.cov(trials(1)[0]), rtol=1e-10)
    x = trials(3) + 1e-4  # trials themselves keep their mean
    assert EuclideanAlignment().fit_transform(x).mean() != pytest.approx(0, abs=0.1)


def test_a_fixed_mixing_of_the_channels_is_undone_up_to_a_rotation():
    x = trials()
    mixing = np.random.default_rng(5).standard_normal((4, 4))
    one, other = EuclideanAlignment().fit_transform(x), EuclideanAlignment().fit_transform(mixing @ x)
    # alike up to a rotation: what trials have in common with each other is the same
    rotation = (
        inverse_square_root(mean_covariance(mixing @ x))
        @ mixing
        @ np.linalg.inv(inverse_square_root(mean_covariance(x)))
    )
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(rotation @ one, other, atol=1e-6)


def test_each_group_is_whitened_by_its_own():
    x = np.concatenate((trials(6, 0), trials(6, 1)))
    groups = ["anna"] * 6 + ["ben"] * 6
    aligned = EuclideanAlignment().fit_transform(x, groups=groups)
    for half in (aligned[:6], aligned[6:]):
        np.testing.assert_allclose(mean_covariance(half), np.eye(4), atol=1e-6)
    fitted = EuclideanAlignment().fit(x, groups=groups)
    with pytest.raises(InputError, match="group cleo was not fitted"):
        fitted.transform(x[:2], groups=["cleo"] * 2)
    with pytest.raises(InputError, match="one group for each of 2 trials"):
        fitted.transform(x[:2], groups=["anna"])


def test_offline_looks_at_no_other_trial_and_online_at_no_later_one():
    x, later = trials(), trials(12, 9)
    offline = EuclideanAlignment("offline").fit(x)
    np.testing.assert_allclose(offline.transform(later)[:3], offline.transform(later[:3]))
    online = EuclideanAlignment("online").fit(x)
    np.testing.assert_allclose(online.transform(later)[:3], online.transform(later[:3]))
    transductive = EuclideanAlignment("transductive").fit(x)
    assert not np.allclose(transductive.transform(later)[:3], transductive.transform(later[:3]))


def test_online_ends_at_what_offline_knows():
    x = trials(40)
    running = RunningAlignment()
    for trial in x:
        last = running.push(trial)
    np.testing.assert_allclose(last, EuclideanAlignment().fit_transform(x)[-1], rtol=1e-6)
    # with a prior that outweighs them, new trials hardly move it
    sure = EuclideanAlignment("online", prior=1e9).fit(x)
    np.testing.assert_allclose(sure.transform(trials(3, 7)), EuclideanAlignment().fit(x).transform(trials(3, 7)),
                               rtol=1e-5)  # fmt: skip


def test_flat_and_repeated_channels_stay_finite():
    x = trials()
    x[:, 1] = 0
    x[:, 3] = x[:, 2]
    aligned = EuclideanAlignment().fit_transform(x)
    assert np.isfinite(aligned).all()
    assert np.abs(aligned).max() < 100


def test_saved_and_loaded_it_aligns_the_same(tmp_path):
    fitted = EuclideanAlignment().fit(trials(), groups=np.arange(12) % 2)
    fitted.save(tmp_path)
    again = load_estimator(tmp_path)
    np.testing.assert_array_equal(again.transform(trials()), fitted.transform(trials()))
    assert clone(again).get_params() == fitted.get_params()


@pytest.mark.border
def test_what_cannot_be_aligned_is_refused():
    with pytest.raises(InputError, match="mode of offline"):
        EuclideanAlignment("best").fit(trials())
    with pytest.raises(InputError, match="at least 2 samples"):
        EuclideanAlignment().fit(trials()[..., :1])
    with pytest.raises(InputError, match="fitted on 4 channels"):
        EuclideanAlignment().fit(trials()).transform(trials()[:, :3])
