"""The semi-simulated experiment on speech decoding: real speech and real EEG noise, simulated responses in between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harken.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from harken.data.brain_speech import SpeechTrials
    from harken.papers._record import Progress

SFREQ = 50.0
SNR = -20.0  # of all frequencies of the EEG, drifts too, averaged over channels
LISTENERS = 3
EPOCHS = 20
CANDIDATES = 200
CLIPS = 150
SPEECH = "speech/librispeech_many_speakers", "speech/librispeech_test_other", "speech/ljspeech_22k"
NOISE = "eeglab_sample_32ch_128hz.npz"
SETTINGS: dict[str, Any] = {
    "sfreq": SFREQ,
    "snr_db": SNR,
    "listeners": LISTENERS,
    "epochs": EPOCHS,
    "segment_seconds": 3,
    "bands": 40,
    "batch": 32,
    "learning_rate": 1e-3,
    "training_clips": CLIPS,
}


def trials(seed: int, quick: bool) -> tuple[SpeechTrials, SpeechTrials]:
    """Training and test trials of the same simulated listeners: other talkers, and other minutes of EEG.

    Raises:
        InputError: the recordings are not there.
    """
    from harken.tasks.simulate_listening import simulate_listening, synthetic_speech

    if quick:
        options: dict[str, Any] = {"listeners": 2, "sfreq": 20.0, "bands": 8, "snr": 0.0, "seconds": 2.0, "seed": seed}
        train = simulate_listening(synthetic_speech(3, 16.0), draw=0, **options)
        return train, simulate_listening(synthetic_speech(2, 16.0, seed=1), draw=1, **options)
    from harken.data.brain_files import read_recording
    from harken.papers._brain import brain_file

    noise = read_recording(brain_file(NOISE)).filtered(0.5, None)
    root = brain_file(NOISE).parents[1]
    folders = [root / name for name in SPEECH]
    options = {"noise": noise, "listeners": LISTENERS, "snr": SNR, "sfreq": SFREQ, "seed": seed}
    train = simulate_listening(_heard(folders[:1])[:CLIPS], part=(0.0, 0.6), draw=0, **options)
    test = simulate_listening(_heard(folders[1:]), part=(0.6, 1.0), draw=1, **options)
    return train, first_segments(test, CANDIDATES)


def first_segments(trials: SpeechTrials, count: int) -> SpeechTrials:
    """The trials of the first so many stretches of speech, of every listener."""
    import numpy as np

    keys = np.stack((trials.source, np.round(trials.onset * 1000).astype(np.int64)), 1)
    _, number = np.unique(keys, axis=0, return_inverse=True)
    return trials.select(number.reshape(-1) < count)


def _heard(folders: Sequence[Path]) -> list[np.ndarray]:
    from harken.tasks.simulate_listening import speech_files

    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise InputError(
            f"this claim needs '{missing[0].name}': set HARKEN_DATA to a folder with speech/{missing[0].name}"
        )
    return speech_files(folders)


def shared(train: SpeechTrials, test: SpeechTrials, loss: str, seed: int, quick: bool, told: Any) -> dict[str, float]:
    """One network for all listeners: top-1 and top-10; a regression by the better of two ways to rank."""
    made = _decoder(loss, seed, quick, told, 1).fit(train.x, train.speech, train.subject, _places(train))
    found = [top(*made.retrieve(test.x, test.speech, test.subject, by=by)) for by in _ways(loss)]
    return max(found, key=lambda one: one["top10"])


def one_each(train: SpeechTrials, test: SpeechTrials, seed: int, quick: bool, told: Any) -> dict[str, float]:
    """A contrastive network for each listener alone, with twice the epochs: the same sizes otherwise."""
    import numpy as np

    ranks = []
    for who in np.unique(train.subject):
        mine, his = train.select(train.subject == who), test.select(test.subject == who)
        made = _decoder("clip", seed, quick, told, 2).fit(mine.x, mine.speech, mine.subject, _places(mine))
        ranks.append(top(*made.retrieve(his.x, his.speech, his.subject)))
    return {name: float(np.mean([one[name] for one in ranks])) for name in ranks[0]}


def linear(train: SpeechTrials, test: SpeechTrials) -> dict[str, float]:
    """Ridge regression, a listener at a time: what simulated listeners, who are linear, are made for."""
    from harken.tasks.brain_speech import ridge_scores

    return top(*ridge_scores(train, test))


def top(scores: np.ndarray, own: np.ndarray) -> dict[str, float]:
    """Share of trials whose speech is the best, and among the ten best."""
    from harken.models.brain.segment_retrieval import rank_of

    ranks = rank_of(scores, own)
    return {"top1": float((ranks < 1).mean()), "top10": float((ranks < 10).mean())}


def told_by(progress: Progress, done: float, share: float, what: str) -> Any:
    """What an estimator reports, as a part of the claim's progress."""
    return lambda part, note: progress(min(1.0, done + share * part), f"{what}: {note}")


def _decoder(loss: str, seed: int, quick: bool, told: Any, longer: int) -> Any:
    from harken.models.brain.speech_decoder import BrainSpeechDecoder

    sizes = {"sfreq": 20.0, "hidden": 8, "layers": 2, "virtual_sensors": 8, "position_dim": 32} if quick else {
        "sfreq": SFREQ, "hidden": 32, "layers": 6,
    }  # fmt: skip
    return BrainSpeechDecoder(
        **sizes,  # type: ignore[arg-type]
        loss=loss,  # type: ignore[arg-type]
        epochs=1 if quick else EPOCHS * longer,
        batch_size=32,
        lr=1e-3,
        patience=None,
        seed=seed,
        progress=told,
    )


def _ways(loss: str) -> tuple[Any, ...]:
    return ("clip",) if loss == "clip" else ("clip", "distance")


def _places(trials: SpeechTrials) -> np.ndarray:
    from harken.models.brain.sensor_layout import sensor_layout

    return sensor_layout(trials.x.shape[1], trials.positions, trials.ch_names)
