"""What every neural decoder promises: scikit-learn's contract, seeds, early stopping, files without pickle."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from harken.errors import CheckpointError, InputError
from harken.models import brain

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import NotFittedError  # noqa: E402
from sklearn.model_selection import cross_val_score  # noqa: E402

from harken.models.brain._estimator import NeuralClassifier  # noqa: E402


class PowerClassifier(NeuralClassifier):
    """Log power and a linear layer."""

    def __init__(self, epochs=60, batch_size=16, lr=0.05, weight_decay=0.0, validation=0.2, patience=20, seed=0,
                 device="cpu", progress=None):  # fmt: skip
        self.epochs, self.batch_size, self.lr, self.weight_decay = epochs, batch_size, lr, weight_decay
        self.validation, self.patience, self.seed, self.device, self.progress = (
            validation,
            patience,
            seed,
            device,
            progress,
        )

    def _build(self, channels, samples, classes):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.norm = nn.BatchNorm1d(channels)
                self.linear = nn.Linear(channels, classes)

            def forward(self, x):
                return self.linear(self.norm(x.square().mean(-1).clamp_min(1e-6).log()))

        return Network()


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(brain._ESTIMATORS, "PowerClassifier", "nowhere")


def trials(count=60, labels=("rest", "move")):
    rng = np.random.default_rng(0)
    y = np.arange(count) % 2
    x = rng.standard_normal((count, 3, 64)) * 1e-5
    x[:, 1] *= 1 + 2 * y[:, None]
    return x.astype(np.float32), np.array(labels)[y]


def test_it_learns_clones_and_cross_validates():
    x, y = trials()
    model = PowerClassifier(epochs=30)
    assert cross_val_score(model, x, y, cv=3).mean() > 0.9
    assert clone(model).get_params() == model.get_params()
    fitted = model.fit(x, y)
    assert set(fitted.classes_) == {"rest", "move"}
    assert fitted.predict_proba(x).sum(1) == pytest.approx(1)
    assert (fitted.predict(x) == fitted.classes_[fitted.predict_proba(x).argmax(1)]).all()


def test_the_same_seed_gives_the_same_decoder_and_leaves_torch_alone():
    x, y = trials()
    before = torch.random.get_rng_state()
    one, other = (PowerClassifier(epochs=3).fit(x, y).predict_proba(x) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not np.array_equal(one, PowerClassifier(epochs=3, seed=1).fit(x, y).predict_proba(x))


def test_the_unit_does_not_matter():
    x, y = trials()
    volts, micro = PowerClassifier(epochs=3).fit(x, y), PowerClassifier(epochs=3).fit(x * 1e6, y)
    np.testing.assert_allclose(volts.predict_proba(x), micro.predict_proba(x * 1e6), atol=1e-4)


def test_it_stops_when_validation_no_longer_improves_and_keeps_the_best():
    x, y = trials()
    model = PowerClassifier(epochs=500, patience=3).fit(x, np.random.default_rng(1).permutation(y))
    losses = [entry["validation_loss"] for entry in model.history_]
    assert len(losses) < 500
    assert int(np.argmin(losses)) == len(losses) - 4


def test_validation_trials_are_the_last_of_each_class():
    x, y = trials(20)
    model = PowerClassifier()
    _, labels = model._start(x, y)
    train, held_out = model._held_out(labels)
    assert held_out.tolist() == [16, 17, 18, 19]
    assert sorted([*train, *held_out]) == list(range(20))


def test_saved_and_loaded_it_decides_the_same(tmp_path):
    x, y = trials()
    model = PowerClassifier(epochs=3).fit(x, y)
    model.save(tmp_path)
    again = PowerClassifier.load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    assert again.get_params() == model.get_params()
    assert not list(tmp_path.glob("*.pkl"))


def test_epochs_of_mne_are_taken_and_their_channels_remembered():
    pytest.importorskip("mne")
    from harken.data.brain import Trials

    x, y = trials()
    epochs = Trials(x, (y == "move").astype(int), ("rest", "move"), 64.0, ("Fz", "Cz", "Pz")).as_epochs()
    model = PowerClassifier(epochs=3).fit(epochs, y)
    assert model.ch_names_ == ("Fz", "Cz", "Pz")
    np.testing.assert_allclose(model.predict_proba(x), model.predict_proba(epochs), atol=1e-5)
    with pytest.raises(InputError, match="fitted on the channels Fz, Cz, Pz"):
        model.predict(epochs.copy().rename_channels({"Fz": "Oz"}))


BROKEN = {
    "nan": (lambda x, y: (np.where(np.arange(len(x))[:, None, None] == 3, np.nan, x), y), "trial 3"),
    "one class": (lambda x, y: (x, np.zeros(len(x))), "two classes"),
    "labels": (lambda x, y: (x, y[:-1]), "one label for each"),
    "empty": (lambda x, y: (x[:0], y[:0]), "minimum of 1"),
    "real-valued labels": (lambda x, y: (x, np.linspace(0, 1, len(x))), "continuous"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_learned_from_is_refused(kind):
    change, message = BROKEN[kind]
    with pytest.raises(ValueError, match=message) as caught:
        PowerClassifier().fit(*change(*trials()))
    assert "\n" not in str(caught.value).split(". ")[0]


def test_trials_of_another_shape_are_refused():
    x, y = trials()
    model = PowerClassifier(epochs=1).fit(x, y)
    with pytest.raises(InputError, match="fitted on 3 channels"):
        model.predict(x[:, :2])
    with pytest.raises(InputError, match="on 64 samples"):
        model.predict(x[:, :, :50])
    with pytest.raises(NotFittedError):
        PowerClassifier().predict(x)


def test_a_diverging_training_says_so():
    x, y = trials()
    with pytest.raises(InputError, match="no longer finite"):
        PowerClassifier(epochs=50, lr=1e30).fit(x, y)


DAMAGE = {
    "no file": lambda folder: (folder / "estimator.json").unlink(),
    "not json": lambda folder: (folder / "estimator.json").write_text("{"),
    "another": lambda folder: (folder / "estimator.json").write_text('{"estimator": "Other"}'),
    "list": lambda folder: (folder / "estimator.json").write_text("[1]"),
    "weights": lambda folder: (folder / "model.safetensors").write_bytes(b"junk"),
    "sizes": lambda folder: change(folder, lambda kept: kept["fitted"].update(channels=10**9)),
    "parameters": lambda folder: change(folder, lambda kept: kept["parameters"].update(evil=1)),
    "fewer classes": lambda folder: change(folder, lambda kept: kept["fitted"].update(classes=["a", "b", "c"])),
}


def change(folder, how):
    kept = json.loads((folder / "estimator.json").read_text())
    how(kept)
    (folder / "estimator.json").write_text(json.dumps(kept))


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_folders_get_one_line(kind, tmp_path):
    PowerClassifier(epochs=1).fit(*trials()).save(tmp_path)
    DAMAGE[kind](tmp_path)
    with pytest.raises(CheckpointError) as caught:
        PowerClassifier.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_of_no_estimator_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"no estimator\.json"):
        brain.load_estimator(tmp_path)
    (tmp_path / "estimator.json").write_text('{"estimator": "os"}')
    with pytest.raises(CheckpointError, match="names no estimator"):
        brain.load_estimator(tmp_path)
