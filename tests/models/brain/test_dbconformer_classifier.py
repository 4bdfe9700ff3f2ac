"""DBConformerClassifier: it learns, keeps scikit-learn's contract, and decodes with channels missing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.errors import InputError
from harken.models import brain

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from harken.data.brain import Trials
from harken.models.brain.dbconformer_classifier import DBConformerClassifier, _moved

NAMES = ("C3", "Cz", "C4", "Pz")
SMALL = {"dim": 20, "layers": 1, "epochs": 4, "validation": 0.0}


def trials(count=64, seed=0):
    """A rhythm that is stronger on one side or the other."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.standard_normal((count, 4, 64))
    rhythm = np.sin(2 * np.pi * 10 * np.arange(64) / 64 + rng.uniform(0, 6, (count, 1)))
    x[np.arange(count), np.where(y, 0, 2)] += 2 * rhythm
    return (x * 1e-5).astype(np.float32), np.array(["left", "right"])[y]


def test_it_learns_which_side_is_stronger_and_survives_saving(tmp_path):
    x, y = trials()
    model = DBConformerClassifier(dim=20, layers=1, dropout=0.0, epochs=15, lr=5e-3, validation=0.0).fit(x, y)
    new, truth = trials(40, 1)
    assert model.score(new, truth) > 0.85
    model.save(tmp_path)
    again = brain.load_estimator(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(new), model.predict_proba(new))
    weights = again.channel_weights(new)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("alignment", ["none", "offline", "transductive", "online"])
def test_every_alignment_keeps_the_contract(alignment, tmp_path):
    x, y = trials(24)
    model = DBConformerClassifier(alignment=alignment, **SMALL)
    assert clone(model).get_params() == model.get_params()
    pipeline = make_pipeline(FunctionTransformer(), model)
    assert np.isfinite(cross_val_score(pipeline, x, y, cv=2)).all()
    model.fit(x, y, groups=np.arange(24) // 12)
    model.save(tmp_path)
    np.testing.assert_allclose(brain.load_estimator(tmp_path).predict_proba(x), model.predict_proba(x))
    alone = model.predict_proba(x[:5])
    together = model.predict_proba(x)[:5]
    assert np.allclose(alone, together, atol=1e-5) == (alignment != "transductive")


def test_epochs_with_fewer_channels_are_decoded_by_name():
    pytest.importorskip("mne")
    x, y = trials(24)
    positions = np.array([[-0.07, 0, 0.06], [0, 0, 0.1], [0.07, 0, 0.06], [0, -0.06, 0.09]])
    given = Trials(x, (y == "right").astype(int), ("left", "right"), 64.0, NAMES, positions=positions)
    model = DBConformerClassifier(missing="mask", alignment="offline", **SMALL).fit(given.as_epochs(), y)
    np.testing.assert_allclose(model.positions_, positions, atol=1e-6)
    swapped = given.pick(("Pz", "C4", "C3"))
    lacking = x.copy()
    lacking[:, 1] = np.nan
    np.testing.assert_allclose(model.predict_proba(swapped), model.predict_proba(lacking), atol=1e-5)
    np.testing.assert_allclose(model.predict_proba(given), model.predict_proba(x), atol=1e-5)
    assert not model.channel_weights(lacking)[:, 1].any()
    with pytest.raises(InputError, match="none of the channels"):
        model.predict(np.full_like(x, np.nan))
    strict = DBConformerClassifier(**SMALL).fit(given, y)
    with pytest.raises(InputError, match="fitted on the channels"):
        strict.predict(swapped)
    with pytest.raises(InputError, match="NaN"):
        strict.predict(lacking)


def test_trials_of_one_channel_may_have_two_dimensions():
    x, y = trials(24)
    assert DBConformerClassifier(**SMALL).fit(x[:, 0], y).predict(x[:, 0]).shape == (24,)


def test_shifted_trials_are_moved_whole():
    x = torch.arange(10.0).expand(6, 2, 10)
    torch.manual_seed(0)
    moved = _moved(x, 3)
    steps = moved[..., 5] - 5
    assert steps.abs().max() <= 3
    assert steps.unique().numel() > 1
    torch.testing.assert_close(moved[:, 0], moved[:, 1])
    assert moved.min() == 0
    assert moved.max() == 9


def test_rare_classes_can_count_as_much():
    x, y = trials(24)
    x, y = x[4:], y[4:].copy()
    y[:12] = "left"
    one = DBConformerClassifier(balanced=True, shift=0.1, **SMALL).fit(x, y)
    assert one.class_weight_ @ np.bincount(np.unique(y, return_inverse=True)[1]) == pytest.approx(20)


@pytest.mark.border
@pytest.mark.parametrize(
    ("parameters", "message"),
    [({"alignment": "best"}, "alignment"), ({"missing": "guess"}, "missing"), ({"shift": 2.0}, "shift"),
     ({"patch": 99}, "longer than a trial"), ({"dim": 7}, "multiple of heads")],
)  # fmt: skip
def test_unusable_parameters_are_refused(parameters, message):
    with pytest.raises(InputError, match=message):
        DBConformerClassifier(**{**SMALL, **parameters}).fit(*trials(12))
