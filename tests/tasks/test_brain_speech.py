"""``harken brain speech`` and ``harken brain attend``: from files to a figure and JSON, and one line where it fails."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from harken.cli import main
from harken.data.audio import Audio, read, write
from harken.data.brain import Recording
from harken.signal.voice_measures import median_pitch, syllable_rate
from harken.tasks.attend import Attended, Voice, attend, describe_voices, train_decoder
from harken.tasks.brain_speech import RATE, evaluate_speech, judge_saved
from harken.tasks.simulate_listening import simulate_attention, simulate_listening, synthetic_speech


def save_recording(path, recording: Recording) -> None:
    np.savez(path, data=recording.data, sfreq=recording.sfreq, ch_names=np.array(recording.ch_names), unit="V")


@pytest.fixture(scope="module")
def scene():
    talkers = synthetic_speech(2, 36.0)
    return talkers, simulate_attention(talkers, 1, snr=5.0, sfreq=32.0)


@pytest.fixture(scope="module")
def listened(tmp_path_factory):
    """A simulated listener to one audio file, as files."""
    folder = tmp_path_factory.mktemp("listened")
    speech = synthetic_speech(1, 60.0)
    write(folder / "story.wav", Audio(speech[0], RATE))
    trials = simulate_listening(speech, listeners=1, snr=10.0, sfreq=20.0, seconds=60.0)
    save_recording(folder / "p.npz", Recording(trials.x[0], 20.0, trials.ch_names))
    return folder


QUICK = [
    "--sfreq",
    "20",
    "--seconds",
    "2",
    "--epochs",
    "2",
    "--hidden",
    "8",
    "--layers",
    "2",
    "--block",
    "6",
    "--quiet",
]


def test_files_to_figure_json_and_a_decoder_that_remembers_what_it_heard(listened, capsys):
    story, out = str(listened / "story.wav"), listened / "decoder"
    arguments = ["brain", "speech", str(listened / "p.npz"), "--audio", story, *QUICK]
    assert main([*arguments, "--out", str(out), "--plot", str(listened / "c.png"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {one["decoder"] for one in told["decoders"]} == {"BrainSpeechDecoder", "ridge"}
    assert told["chance"]["top1"] == pytest.approx(1 / told["candidates"])
    assert (listened / "c.png").stat().st_size > 5000
    assert main([*arguments, "--decoder", str(out)]) == 0
    assert "were left out" in capsys.readouterr().out.replace("\n", " ")


def test_listeners_are_simulated_into_a_recording(listened, capsys):
    arguments = ["brain", "speech", str(listened / "p.npz"), "--audio", str(listened / "story.wav"), "--simulate"]
    assert main([*arguments, *QUICK, "--listeners", "2", "--baselines", "none", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["subjects"] == 2
    assert "semi-simulated" in told["notes"][0]


def test_training_and_test_speech_must_differ():
    from harken.errors import InputError
    from harken.models.brain.speech_decoder import BrainSpeechDecoder

    trials = simulate_listening(synthetic_speech(2, 12.0), listeners=1, sfreq=20.0, seconds=2.0)
    make = lambda seed: BrainSpeechDecoder(sfreq=20.0, hidden=4, layers=1, epochs=1, seed=seed)  # noqa: E731
    with pytest.raises(InputError, match="in training and test alike"):
        evaluate_speech(trials, make, test=trials)
    with pytest.raises(InputError, match="no baseline named 'svm'"):
        evaluate_speech(trials, make, baselines=("svm",))
    decoder = make(0).fit(trials.x, trials.speech, trials.subject)
    with pytest.raises(InputError, match="fitted on every segment"):
        judge_saved(decoder, trials)


def test_the_attended_talker_is_found_and_written(scene, tmp_path, capsys):
    talkers, recording = scene
    save_recording(tmp_path / "eeg.npz", recording)
    for name, talker in zip("ab", talkers, strict=True):
        write(tmp_path / f"{name}.wav", Audio(talker, RATE))
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav")]
    common = ["brain", "attend", str(tmp_path / "eeg.npz"), "--streams", *files, "--window", "5", "--quiet"]
    train = [*common, "--attended", "B", "--trial", "9", "--sfreq", "32", "--save", str(tmp_path / "decoder")]
    assert main([*train, "--json", "--plot", str(tmp_path / "a.png")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["attended"], told["truth"]) == ("B", "B")
    assert set(told["accuracy_by_window_seconds"]) == {"1", "2", "5"}
    assert (tmp_path / "a.png").stat().st_size > 5000
    assert main([*common, "--decoder", str(tmp_path / "decoder"), "-o", str(tmp_path / "heard.wav")]) == 0
    assert "attended: talker B" in capsys.readouterr().out
    heard = read(tmp_path / "heard.wav").samples[:, 0]
    assert np.corrcoef(heard, talkers[1])[0, 1] > 0.99


def test_swapping_the_talkers_swaps_the_label(scene):
    talkers, recording = scene
    decoder, found = train_decoder(recording, talkers, 1, window=4.0, trial=9.0, sfreq=32.0)
    assert found.talker == 1
    assert found.accuracy[4.0] >= 0.75
    swapped = attend(recording, talkers[::-1], decoder, window=4.0)
    assert swapped.talker == 0
    assert np.allclose(swapped.correlations, attend(recording, talkers, decoder, window=4.0).correlations[:, ::-1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speech"], "Usage"),
        (["speech", "x.npz"], "what was heard"),
        (["speech", "x.npz", "--demo"], "makes up its own"),
        (["speech", "x.npz", "--audio", "nothing.wav"], "nothing.wav"),
        (["speech", "x.npz", "y.npz", "--audio", "a.wav", "--simulate"], "takes one recording"),
        (["speech", "x.npz", "--audio", "a.wav", "--subjects", "a"], "numbers with commas"),
        (["attend", "x.npz"], "the two talkers"),
        (["attend", "x.npz", "--streams", "a.wav", "b.wav"], "say who was attended"),
        (["attend", "x.npz", "--streams", "a.wav", "b.wav", "--attended", "C"], "takes A or B"),
        (["attend", "--streams", "a.wav", "b.wav", "--attended", "A"], "give a recording"),
    ],
)
def test_what_is_missing_is_said_in_one_line(arguments, message, capsys):
    code = main(["brain", *arguments])
    said = capsys.readouterr()
    assert message in said.out + said.err
    assert arguments == ["speech"] or (code == 2 and said.err.strip().count("\n") == 0)


def test_voices_are_measured():
    time = np.arange(2 * RATE) / RATE
    gate = np.maximum(0, np.sin(2 * np.pi * 3 * time))
    high = sum(np.sin(2 * np.pi * 210 * k * time) / k for k in range(1, 6)) * gate * 0.1
    voice, silent = describe_voices([high.astype(np.float32), np.zeros(2 * RATE, np.float32)])
    assert voice.pitch == pytest.approx(210, rel=0.02)
    assert voice.tempo == pytest.approx(3.0, abs=0.6)
    assert "a high voice (210 Hz)" in voice.text() or "a high voice (211 Hz)" in voice.text()
    assert "unknown pitch" in silent.text()
    assert json.dumps(Attended(1.0, np.zeros((2, 2)), (voice, silent)).as_json())
    import torch

    assert np.isnan(median_pitch(torch.zeros(10), RATE))
    assert syllable_rate(torch.zeros(10), RATE) == 0
    assert Voice("A", 100.0, 1.0, -20.0).text().startswith("talker A: a low voice")
