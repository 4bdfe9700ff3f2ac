"""The estimator: it finds what was heard, learns nothing from test trials, and keeps scikit-learn's contract."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score

from harken.data.simulated_listening import SimulatedListener, pink_noise, with_noise
from harken.errors import CheckpointError, InputError
from harken.models.brain.segment_retrieval import rank_of, segment_codes, top_k
from harken.models.brain.sensor_layout import sensor_layout
from harken.models.brain.speech_decoder import BrainSpeechDecoder

SFREQ, SAMPLES, CHANNELS = 20.0, 60, 8
PLACES = np.random.default_rng(5).uniform(0, 1, (CHANNELS, 2))
QUICK = {"sfreq": SFREQ, "hidden": 16, "layers": 2, "virtual_sensors": 8, "position_dim": 32, "lr": 5e-3, "seed": 0}


def pairs(count: int, listeners: int = 1, snr: float = 10.0, first: int = 0):
    """Trials, speech features and subjects of simulated listeners; other numbers give other speech."""
    person = SimulatedListener.draw(np.random.default_rng(9), features=4, positions=PLACES, sfreq=SFREQ, sources=6)
    x, y, who = [], [], []
    for number in range(listeners):
        one = person if number == 0 else person.moved(np.random.default_rng(50 + number), PLACES)
        for trial in range(first, first + count):
            rng = np.random.default_rng((7, trial))
            speech = rng.standard_normal((4, SAMPLES)).astype(np.float32)
            noise = 1e-5 * pink_noise(np.random.default_rng((number, trial)), CHANNELS, SAMPLES)
            x.append(with_noise(one.respond(speech), noise, snr))
            y.append(speech)
            who.append(number)
    return np.stack(x), np.stack(y), np.array(who)


@pytest.fixture(scope="module")
def fitted() -> BrainSpeechDecoder:
    x, y, who = pairs(60, listeners=2)
    return BrainSpeechDecoder(**QUICK, epochs=25, top_k=3).fit(x, y, subject=who, positions=PLACES)


def test_it_finds_speech_that_it_has_never_met(fitted):
    x, y, who = pairs(25, listeners=2, first=1000)
    assert fitted.score(x, y, subject=who) > 0.7  # chance: 3 of 25
    ranks = fitted.rank(x, y[:25], subject=who)
    assert np.array_equal(ranks[:, 0], fitted.predict(x, y[:25], subject=who))
    assert np.allclose(fitted.predict_proba(x, y[:25], subject=who).sum(1), 1)


def test_a_listener_is_not_another(fitted):
    x, y, who = pairs(25, listeners=2, first=1000)
    assert fitted.score(x, y, subject=1 - who) < fitted.score(x, y, subject=who) - 0.2


def test_saved_and_loaded_it_gives_the_same(fitted, tmp_path):
    x, y, who = pairs(6, first=1000)
    fitted.save(tmp_path)
    again = BrainSpeechDecoder.load(tmp_path)
    assert np.array_equal(again.similarity(x, y, subject=who), fitted.similarity(x, y, subject=who))
    assert set(again.heard_) == set(segment_codes(pairs(60)[1]))
    text = (tmp_path / "estimator.json").read_text()
    (tmp_path / "estimator.json").write_text(text.replace('"hidden": 16', '"hidden": 8'))
    with pytest.raises(CheckpointError):
        BrainSpeechDecoder.load(tmp_path)


def test_test_trials_teach_it_nothing(fitted):
    x, _, who = pairs(8, first=1000)
    alone = np.concatenate([fitted.decode(x[i : i + 1], subject=who[i : i + 1]) for i in range(8)])
    assert np.allclose(fitted.decode(x, subject=who), alone, atol=1e-5)


def test_speech_of_validation_is_never_trained_on():
    _, y, _ = pairs(20, listeners=2)
    train, held_out = BrainSpeechDecoder(validation=0.2)._held_out(segment_codes(y))
    assert len(held_out) == 8
    assert not set(segment_codes(y[train])) & set(segment_codes(y[held_out]))


def test_outliers_are_clamped_and_flat_channels_survive():
    x, y, _ = pairs(12)
    x[0, 0, 30] = 1.0  # a volt
    x[:, 3] = 0.0
    decoder = BrainSpeechDecoder(**QUICK, epochs=1, validation=0.0).fit(x, y)
    assert np.abs(decoder._brain(x, np.zeros(12, np.int64))).max() == 20.0
    assert np.isfinite(decoder.decode(x)).all()


def test_audio_becomes_mel_bands_and_a_second_network_may_learn_along():
    rng = np.random.default_rng(0)
    audio = rng.standard_normal((10, 3 * 16000)).astype(np.float32)
    x = 1e-5 * rng.standard_normal((10, 4, SAMPLES)).astype(np.float32)
    decoder = BrainSpeechDecoder(**QUICK, bands=6, target="deep-mel", epochs=1, top_k=2).fit(x, audio)
    assert decoder.features_ == 6
    assert decoder.similarity(x[:3], audio).shape == (3, 10)


def test_the_contract_of_scikit_learn():
    x, y, _ = pairs(16)
    decoder = BrainSpeechDecoder(**QUICK, epochs=1, top_k=2)
    assert clone(decoder).get_params() == decoder.get_params()
    assert cross_val_score(decoder, x, y, cv=2).shape == (2,)
    with pytest.raises(NotFittedError):
        clone(decoder).decode(x)


def test_a_seed_decides_everything_and_nothing_outside_follows_from_it():
    x, y, _ = pairs(10)
    before = np.random.get_state()[1][:5].copy()
    one, other = (BrainSpeechDecoder(**QUICK, epochs=2).fit(x, y).decode(x) for _ in range(2))
    assert np.array_equal(one, other)
    assert np.array_equal(before, np.random.get_state()[1][:5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:5]), "trials of 60 samples"),
        (lambda x, y: (x, y[..., :30]), "trials of 60 samples"),
        (lambda x, y: (x, None), "what was heard"),
        (lambda x, y: (np.where(np.arange(SAMPLES) == 3, np.nan, x), y), "NaN"),
        (lambda x, y: (x, np.full_like(y, np.inf)), "NaN or infinite"),
        (lambda x, y: (x, y[0, 0]), "features"),
    ],
)
def test_bad_input_is_named_in_one_line(change, message):
    x, y, _ = pairs(8)
    with pytest.raises(InputError, match=message) as caught:
        BrainSpeechDecoder(**QUICK, epochs=1).fit(*change(x, y))
    assert "\n" not in str(caught.value)


def test_strangers_and_short_lists_are_refused(fitted):
    x, y, who = pairs(8, first=1000)
    with pytest.raises(InputError, match="subject 9 was not"):
        fitted.decode(x, subject=who + 9)
    with pytest.raises(InputError, match="say whose"):
        fitted.decode(x)
    with pytest.raises(InputError, match="says nothing"):
        fitted.score(x[:3], y[:3], subject=who[:3])
    with pytest.raises(InputError, match="fitted on 8 channels"):
        fitted.decode(x[:, :5], subject=who)


@pytest.mark.border
def test_settings_that_cannot_be_are_refused():
    x, y, _ = pairs(8)
    for wrong in ({"loss": "l1"}, {"target": "words"}, {"delay": -1.0}, {"validation": 1.0}, {"scaling": "none"}):
        with pytest.raises(InputError):
            BrainSpeechDecoder(**QUICK, **wrong).fit(x, y)
    with pytest.raises(InputError, match="make both zero"):
        BrainSpeechDecoder(**QUICK, loss="regression", target="deep-mel").fit(x, y)
    with pytest.raises(InputError, match="too short"):
        BrainSpeechDecoder(**QUICK, delay=5.0).fit(x, y)


def test_ranks_count_ties_half():
    scores = np.array([[3.0, 2.0, 1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    assert rank_of(scores, np.array([0, 0, 0])).tolist() == [0, 1, 2]
    assert top_k(scores, np.array([0, 0, 0]), 1) == pytest.approx(1 / 3)


def test_sensors_are_laid_flat_and_unknown_ones_marked():
    head = np.array([[0.0, 0.0, 0.1], [0.1, 0.0, 0.0], [-0.1, 0.0, 0.0], [0.0, 0.1, 0.0], [np.nan] * 3])
    flat = sensor_layout(5, head)
    assert np.allclose(flat[:4], [[0.5, 0.0], [1.0, 0.0], [0.0, 0.0], [0.5, 1.0]])
    assert np.allclose(flat[4], -0.1)
    with pytest.raises(InputError, match="no sensor"):
        sensor_layout(2, np.full((2, 3), np.nan))
    with pytest.raises(InputError, match="expected positions"):
        sensor_layout(2, np.zeros((3, 2)))


def test_names_of_the_ten_five_system_are_known():
    pytest.importorskip("mne")
    cz, fz, oz, eog = sensor_layout(4, None, ["Cz", "FZ", "Oz", "EOG1"])
    assert fz[1] > cz[1] > oz[1]
    assert np.allclose(eog, -0.1)
