"""The detector: scikit-learn's contract, learning without labels, missing channels, long recordings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils import estimator_checks

from harken.data.brain import Recording, Trials
from harken.errors import CheckpointError, InputError
from harken.models.brain import load_estimator
from harken.models.brain.seizure import SeizureDetector


def small(**options) -> SeizureDetector:
    return SeizureDetector(
        **{
            "segment": 32, "dim": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16, "epochs": 12, "lr": 1e-2,
            "batch_size": 16, "device": "cpu", **options,
        }
    )  # fmt: skip


def trials(count=40, channels=2, seed=0) -> Trials:
    """Seizures are rhythmic and strong; the rest is noise. Microvolts, as volts."""
    rng = np.random.default_rng(seed)
    y = np.arange(count) % 2
    x = rng.standard_normal((count, channels, 200)) * 2e-5
    x += y[:, None, None] * 6e-5 * np.sin(2 * np.pi * 4 * np.arange(200) / 64 + rng.uniform(0, 6, (count, 1, 1)))
    return Trials(x.astype(np.float32), y, ("rest", "seizure"), 64.0)


@pytest.fixture(scope="module")
def fitted() -> SeizureDetector:
    data = trials()
    return small().fit(data, data.labels)


# those that allow trials of few samples, and say something about this estimator rather than about its base
CHECKS = [
    "check_no_attributes_set_in_init", "check_parameters_default_constructible", "check_dict_unchanged",
    "check_dont_overwrite_attributes", "check_fit_idempotent", "check_estimators_nan_inf", "check_complex_data",
    "check_classifiers_one_label", "check_classifiers_classes", "check_methods_sample_order_invariance",
    "check_requires_y_none", "check_classifiers_regression_target", "check_estimators_pickle", "check_fit2d_1sample",
]  # fmt: skip


@pytest.mark.border
@pytest.mark.parametrize("check", CHECKS)
def test_scikit_learns_own_checks(check):
    estimator = small(segment=2, wavelet="db1", epochs=1)  # their trials have few samples
    if hasattr(estimator_checks, check):
        getattr(estimator_checks, check)("SeizureDetector", estimator)


def test_it_learns_and_decides_after_every_segment(fitted):
    data = trials(seed=1)
    assert fitted.score(data, data.labels) > 0.9
    by_segment = fitted.predict_segments(data)
    assert by_segment.shape == (40, 6, 2)
    np.testing.assert_allclose(by_segment.sum(-1), 1, rtol=1e-6)
    # a decision needs nothing that comes later
    cut = Trials(np.concatenate((data.x[..., :96], 0 * data.x[..., 96:]), -1), data.y, data.classes, 64.0)
    np.testing.assert_allclose(fitted.predict_segments(cut)[:, :3], by_segment[:, :3], atol=1e-5)


def test_last_and_mean_read_what_the_segments_say():
    data = trials(12)
    last = small(readout="last", epochs=1).fit(data, data.labels)
    np.testing.assert_allclose(last.predict_segments(data)[:, -1], last.predict_proba(data), atol=1e-6)


def test_parameters_are_kept_and_cross_validation_works():
    data = trials(24)
    detector = small(balanced=True, epochs=3)
    assert clone(detector).get_params() == detector.get_params()
    assert cross_val_score(detector, data.x, data.y, cv=2).shape == (2,)


def test_seeds_decide_everything(fitted):
    data, state = trials(), torch.random.get_rng_state()
    again = small().fit(data, data.labels)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.array_equal(again.predict_proba(data), fitted.predict_proba(data))


@pytest.mark.parametrize("options", [{}, {"tune": "lora", "pretrain_epochs": 1, "lora_rank": 2}])
def test_saved_and_loaded_it_decides_the_same(options, tmp_path):
    data = trials(16)
    detector = small(epochs=2, **options).fit(data, data.labels)
    detector.save(tmp_path)
    again = load_estimator(tmp_path)
    assert np.array_equal(again.predict_proba(data), detector.predict_proba(data))
    assert again.predict(data).dtype == detector.predict(data).dtype


def test_signals_without_labels_teach_what_comes_next():
    data, more = trials(8), trials(24, seed=2)
    detector = small(pretrain_epochs=12, pretrain_lr=1e-2, epochs=1, negatives=7).fit(data, data.labels, more)
    losses = [entry["loss"] for entry in detector.pretrain_history_]
    assert losses[-1] < losses[0] - 0.2
    assert detector.retrieval_accuracy(trials(seed=3), negatives=7) > 0.2  # chance 0.125


def test_fine_tuning_by_low_rank_leaves_the_rest_as_it_was():
    data = trials(16)
    detector = small(pretrain_epochs=2, tune="lora", epochs=3).fit(data, data.labels)
    before, after = detector.pretrained_.state_dict(), detector.module_.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight"}
    assert any(after[name].any() for name in after if name.endswith(".up"))


def test_a_flat_channel_is_a_missing_one():
    data = trials(20, channels=3)
    detector = small(epochs=2, any_channels=True).fit(data, data.labels)
    flat = data.x.copy()
    flat[:, 2] = 1e-5
    np.testing.assert_allclose(detector.predict_proba(flat), detector.predict_proba(data.x[:, :2]), atol=1e-5)
    assert not np.allclose(detector.predict_proba(flat), detector.predict_proba(data.x))


def test_a_recording_is_decided_window_by_window(fitted):
    data = trials(6, seed=4)
    recording = Recording(np.concatenate(list(data.x), -1), 64.0, ("1", "2"))
    course = fitted.predict_recording(recording)
    assert course.probabilities.shape == ((1200 - 200) // 32 + 1, 2)
    assert (course.times[0], course.window) == (200 / 64, 200 / 64)
    np.testing.assert_allclose(course.probabilities[:1], fitted.predict_proba(data.x[:1]), atol=1e-5)
    np.testing.assert_allclose(course.probabilities[25], fitted.predict_proba(data.x[4:5])[0], atol=1e-5)  # at 800
    assert len(fitted.predict_recording(recording, step=5).times) == 7


@pytest.mark.border
def test_what_a_recording_lacks_is_said(fitted):
    silent = np.zeros((2, 400), np.float32)
    with pytest.raises(InputError, match="fitted at 64 Hz, the recording has 100"):
        fitted.predict_recording(silent, sfreq=100)
    with pytest.raises(InputError, match="pick these"):
        fitted.predict_recording(Recording(silent, 64.0, ("A", "B")))
    with pytest.raises(InputError, match="a decision needs 200 samples"):
        fitted.predict_recording(silent[:, :100])
    with pytest.raises(InputError, match="at least 1 segment"):
        fitted.predict_recording(silent, step=0)
    with pytest.raises(InputError, match="on 2 channels"):
        fitted.predict(np.zeros((1, 3, 200)))


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 300}, "hold no segment of 300"),
        ({"tune": "some"}, "'all' or 'lora'"),
        ({"segment": 5}, "take longer signals"),
    ],
)
def test_what_cannot_be_fitted_is_said(options, message):
    data = trials(8)
    with pytest.raises(InputError, match=message):
        small(**options).fit(data, data.labels)


def test_unlabelled_trials_need_pre_training_and_the_same_shape():
    data = trials(8)
    with pytest.raises(InputError, match="set pretrain_epochs"):
        small().fit(data, data.labels, data)
    with pytest.raises(InputError, match="fitted on 2 channels"):
        small(pretrain_epochs=1).fit(data, data.labels, trials(8, channels=3))


def test_a_damaged_folder_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    path = tmp_path / "estimator.json"
    path.write_text(path.read_text().replace('"layers": 1', '"layers": 2'))
    with pytest.raises(CheckpointError):
        SeizureDetector.load(tmp_path)


def test_epochs_of_mne():
    mne = pytest.importorskip("mne")
    data = trials(8)
    info = mne.create_info(["C3", "C4"], 64.0, "eeg")
    epochs = mne.EpochsArray(data.x, info, verbose="error")
    detector = small(epochs=1).fit(epochs, data.labels)
    assert (detector.ch_names_, detector.sfreq_) == (("C3", "C4"), 64.0)
    assert detector.predict(epochs).shape == (8,)
