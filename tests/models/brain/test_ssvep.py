"""Estimators of the flicker: what the methods promise, what scikit-learn expects, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from harken.data.ssvep import synthetic_ssvep
from harken.errors import CheckpointError, InputError
from harken.models.brain.ssvep import CCAClassifier, FBCCAClassifier, canonical_correlation, sine_references
from harken.models.brain.ssvep_classifier import SSVEPClassifier
from harken.models.brain.trca import TRCAClassifier, task_components, template_correlation

TINY = {"filters": 8, "epochs": 3, "subject_epochs": 2}


@pytest.fixture(scope="module")
def trials():
    return synthetic_ssvep(blocks=4, subjects=2, snr=0.6, seed=3)


def split(trials):
    return trials.select(trials.session < 3), trials.select(trials.session == 3)


def named(trials):
    return dict(zip(trials.classes, trials.frequencies, strict=True))


def reference_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """By QR and SVD, one pair."""
    bases = [np.linalg.qr((a - a.mean(-1, keepdims=True)).T)[0] for a in (x, y)]
    return float(np.linalg.svd(bases[0].T @ bases[1])[1][0])


def test_canonical_correlation_is_that_of_the_textbook():
    rng = np.random.default_rng(0)
    x, references = rng.standard_normal((3, 4, 90)), sine_references([9.0, 14.0], 90, 250.0, 2)
    expected = [[reference_correlation(a, b.T) for b in references] for a in x]
    np.testing.assert_allclose(canonical_correlation(x, references), expected, atol=1e-10)


def test_canonical_correlation_does_not_ask_how_channels_are_mixed_and_invents_none():
    rng = np.random.default_rng(0)
    x, references = rng.standard_normal((3, 4, 90)), sine_references([9.0, 14.0], 90, 250.0, 2)
    rho = canonical_correlation(x, references)
    np.testing.assert_allclose(canonical_correlation(rng.standard_normal((4, 4)) @ x, references), rho, atol=1e-8)
    wider = np.concatenate((x, x.sum(1, keepdims=True), np.zeros((3, 1, 90))), 1)
    np.testing.assert_allclose(canonical_correlation(wider * 1e-6, references), rho, atol=1e-6)


def test_harmonics_that_cannot_have_been_recorded_are_left_out():
    references = sine_references([30.0], 100, 128.0, 3)
    assert not references[0, :, [2, 5]].any()
    assert references[0, :, [0, 1, 3, 4]].any(1).all()


def test_filters_are_conjugate_and_templates_the_mean():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((12, 2, 4, 60)), np.repeat([0, 1, 2], [3, 4, 5])
    found = task_components(x, y, 3)
    x = x - x.mean(-1, keepdims=True)
    np.testing.assert_allclose(found.templates[1], x[y == 1].mean(0), atol=1e-12)
    own = x[y == 2, 1]
    within = np.einsum("nct,ndt->cd", own, own) / len(own)
    between = np.einsum("nct,mdt->cd", own, own) / len(own)
    w = found.filters[2, 1]
    ratio = w @ between @ w / (w @ within @ w)
    np.testing.assert_allclose(between @ w, ratio * within @ w, atol=1e-8)
    assert w @ within @ w == pytest.approx(1)
    assert ratio == pytest.approx(np.linalg.eigvals(np.linalg.solve(within, between)).real.max())


@pytest.mark.parametrize("ensemble", [True, False])
def test_correlations_with_templates_are_those_of_a_plain_loop(ensemble):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 2, 3, 40)), np.repeat([0, 1, 2], 2)
    found = task_components(x, y, 3)
    rho = template_correlation(x, found, ensemble=ensemble)
    x = x - x.mean(-1, keepdims=True)
    for n, b, k in np.ndindex(rho.shape):
        w = found.filters[:, b] if ensemble else found.filters[k : k + 1, b]
        expected = np.corrcoef((w @ x[n, b]).ravel(), (w @ found.templates[k, b]).ravel())[0, 1]
        assert rho[n, b, k] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda t: CCAClassifier(named(t), t.sfreq),
        lambda t: FBCCAClassifier(named(t), t.sfreq),
        lambda t: FBCCAClassifier(named(t), t.sfreq, design="steep", power=1.0),
        lambda t: TRCAClassifier(t.sfreq),
        lambda t: TRCAClassifier(t.sfreq, ensemble=False),
        lambda t: SSVEPClassifier(t.sfreq, filters=16, epochs=40),
    ],
)
def test_on_a_speller_nobody_wore_they_are_right(make, trials):
    train, test = (part.select(part.subject == 0) for part in split(trials))
    labels = np.array(train.classes)
    estimator = clone(make(trials)).fit(train.x, labels[train.y])
    assert estimator.score(test.x, labels[test.y]) > 0.7
    assert set(estimator.predict(test.x)) <= set(trials.classes)


def test_texts_are_not_sorted_into_frequencies(trials):
    labels = trials.labels
    with pytest.raises(InputError, match="give a dictionary"):
        FBCCAClassifier(trials.frequencies, trials.sfreq).fit(trials.x, labels)
    with pytest.raises(InputError, match=r"no frequency is given for the label '12\.5 Hz'"):
        FBCCAClassifier({"8 Hz": 8.0, "9.5 Hz": 9.5, "11 Hz": 11.0}, trials.sfreq).fit(trials.x, labels)


def test_they_work_in_pipelines_and_cross_validation(trials):
    calibrated = make_pipeline(FBCCAClassifier(trials.frequencies, trials.sfreq, bands=2), LogisticRegression())
    assert cross_val_score(calibrated, trials.x, trials.y, cv=2).mean() > 0.7
    assert cross_val_score(TRCAClassifier(trials.sfreq), trials.x, trials.y, cv=2).shape == (2,)


def test_epochs_bring_their_rate(trials):
    epochs = trials.as_epochs()
    assert FBCCAClassifier(trials.frequencies, sfreq=999.0).fit(epochs, trials.y).score(epochs, trials.y) > 0.7
    decoder = SSVEPClassifier(sfreq=999.0, **TINY).fit(epochs, trials.y)
    assert decoder.predict(epochs).shape == (len(trials),)
    with pytest.raises(InputError, match="fitted on the channels"):
        decoder.predict(epochs.copy().reorder_channels(epochs.ch_names[::-1]))


def test_people_have_networks_of_their_own_and_strangers_the_common_one(trials, tmp_path):
    decoder = SSVEPClassifier(trials.sfreq, **TINY).fit(trials.x, trials.y, subject=trials.subject)
    assert decoder.subjects_.tolist() == [0, 1]
    common, own = decoder.predict_proba(trials.x), decoder.predict_proba(trials.x, subject=trials.subject)
    assert np.abs(common - own).max() > 1e-6
    np.testing.assert_allclose(decoder.predict_proba(trials.x, subject=7), common)
    decoder.save(tmp_path)
    again = SSVEPClassifier.load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(trials.x, subject=trials.subject), own)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError):
        SSVEPClassifier.load(tmp_path)


def test_what_is_exported_is_what_predicts(trials, tmp_path):
    decoder = SSVEPClassifier(trials.sfreq, **TINY).fit(trials.x, trials.y)
    decoder.export(tmp_path / "net.ts")
    x = torch.from_numpy(decoder._prepare(trials.x[:5]))
    found = torch.jit.load(tmp_path / "net.ts")(x).softmax(-1).numpy()
    np.testing.assert_allclose(found, decoder.predict_proba(trials.x[:5]), atol=1e-5)


def test_a_seed_decides_and_units_do_not(trials):
    make = lambda x: SSVEPClassifier(trials.sfreq, seed=4, **TINY).fit(x, trials.y).predict_proba(x)  # noqa: E731
    one = make(trials.x)
    np.testing.assert_array_equal(make(trials.x), one)
    np.testing.assert_allclose(make(trials.x * 1e6), one, atol=1e-3)


def test_windows_are_cut_from_longer_trials(trials):
    decoder = SSVEPClassifier(trials.sfreq, window=0.4, crops=3, **TINY).fit(trials.x, trials.y)
    np.testing.assert_array_equal(decoder.predict(trials.x), decoder.predict(trials.x[:, :, :100]))
    with pytest.raises(InputError, match="fitted on 100 samples"):
        decoder.predict(trials.x[:, :, :60])


@pytest.mark.border
@pytest.mark.parametrize(
    ("make", "change", "message"),
    [
        (FBCCAClassifier, {}, "flicker frequencies"),
        (lambda: FBCCAClassifier([10.0, 200.0]), {}, "cannot be in a signal"),
        (lambda: FBCCAClassifier([10.0, 11.0]), {}, "one frequency a class"),
        (lambda: CCAClassifier([8.0, 9.5, 11.0, 12.5]), {"x": np.nan}, "NaN"),
        (lambda: CCAClassifier([8.0, 9.5, 11.0, 12.5]), {"samples": 12}, "too few"),
        (TRCAClassifier, {"y": 0}, "two or more classes"),
        (lambda: TRCAClassifier(bands=20), {}, "1 to 10 bands"),
        (lambda: TRCAClassifier(60.0, bands=4), {}, "take fewer bands"),
        (TRCAClassifier, {"samples": 5}, "longer window"),
        (SSVEPClassifier, {"y": 0}, "two classes"),
        (lambda: SSVEPClassifier(window=9.0), {}, "shorter window"),
        (lambda: SSVEPClassifier(scaling="loud"), {}, "scaling"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make, change, message, trials):
    x, y = trials.x.copy(), trials.y.copy()
    if "x" in change:
        x[1, 0, 3] = change["x"]
    if "y" in change:
        y[:] = change["y"]
    x = x[:, :, : change.get("samples")]
    with pytest.raises(InputError, match=message) as caught:
        estimator = make().fit(x, y)
        estimator.predict(x)
    assert "\n" not in str(caught.value)


def test_another_number_of_channels_is_refused(trials):
    for estimator in (FBCCAClassifier(trials.frequencies), TRCAClassifier()):
        estimator.fit(trials.x, trials.y)
        with pytest.raises(InputError, match="fitted on 5 channels"):
            estimator.predict(trials.x[:, :3])
