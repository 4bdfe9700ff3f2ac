"""``harken brain efr`` on files: a sound, an envelope or a modulation, a figure, JSON, and one line on bad input."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from harken.cli import app, main
from harken.data.auditory_evoked import read_auditory_evoked
from harken.data.brain import Trials
from harken.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six seconds of a noisy sound, EEG that follows its envelope, as CSV; and trials with a modulation of 40 Hz."""
    rng = np.random.default_rng(0)
    envelope = 1 + np.convolve(rng.standard_normal(1200), np.ones(5) / 3, "same").clip(-0.9, 3)
    sound = np.repeat(envelope, 20) * rng.standard_normal(24000) * 0.05
    soundfile.write(tmp_path / "sound.wav", sound, 4000, subtype="FLOAT")
    eeg = rng.standard_normal((1200, 4)) * 5
    eeg[:, 1] += 30 * envelope
    table = np.column_stack((np.arange(1200), eeg))
    np.savetxt(tmp_path / "eeg.csv", table, delimiter=",", header=",P4,Cz,F8,T7", comments="", fmt="%.4f")
    np.save(tmp_path / "envelope.npy", envelope)
    x = rng.standard_normal((20, 2, 256)) * 1e-6
    x[:10] += 1e-6 * np.sin(2 * np.pi * 40 * np.arange(256) / 128)
    Trials(x, np.repeat([0, 1], 10), ("tone", "none"), 128.0, ("L", "R")).save(tmp_path / "trials.npz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words):
    result = CliRunner().invoke(app, words.split())
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_sound_and_the_physionet_layout(folder):
    found = json.loads(run("brain efr eeg.csv --physionet --audio sound.wav --piece 2 --surrogates 39 --json -q"))
    assert found["channels"] == ["P4", "Cz", "F8", "T7"]
    hertz = found["statistics"]["coherence"]["found_hz"]
    assert len(hertz[1] if isinstance(hertz, list) else hertz["Cz"]) > 5
    assert hertz["F8"] == []
    recording = read_auditory_evoked(folder / "eeg.csv")
    assert (recording.sfreq, recording.data.shape) == (200.0, (4, 1200))


def test_an_envelope_or_a_modulation_with_picture_and_report(folder):
    run("brain efr eeg.csv --physionet --envelope envelope.npy --piece 2 --surrogates 19 -q --plot a.png")
    assert (folder / "a.png").stat().st_size > 20_000
    shown = run(
        "brain efr trials.npz --class tone --modulation 40 --mains 0 --high 60 --surrogates 39 --report a.json -q"
    )
    assert "40" in shown
    report = json.loads((folder / "a.json").read_text())
    assert 40.0 in report["statistics"]["coherence"]["found_hz"]["L"]
    run("brain efr trials.npz --class none --modulation 40 --align L --mains 0 --high 60 --surrogates 19 -q")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trials.npz", "give one of --audio"),
        ("trials.npz --class tone --modulation 40 --envelope envelope.npy", "give one of --audio"),
        ("trials.npz --class some --modulation 40", "no class 'some'"),
        ("trials.npz --class tone --modulation 99", "between 0 and 64 Hz"),
        ("trials.npz --class tone --modulation 40 --align Q", "no channel named 'Q'"),
        ("trials.npz --class tone --envelope nothing.npy", "no envelope at"),
        ("trials.npz --class tone --envelope trials.npz", "holds no numbers"),
        ("eeg.csv --physionet --audio nothing.wav", "nothing.wav"),
        ("sound.wav --physionet --modulation 4", "not a table"),
        ("eeg.csv --physionet --envelope envelope.npy --align Cz", "give --modulation"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(command, message, folder, capsys):
    assert main(["brain", "efr", *command.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_another_table_is_refused(tmp_path):
    np.savetxt(tmp_path / "a.csv", np.ones((5, 3)), delimiter=",")
    with pytest.raises(InputError, match="3 columns"):
        read_auditory_evoked(tmp_path / "a.csv")
    with pytest.raises(InputError, match="no recording"):
        read_auditory_evoked(tmp_path / "b.csv")
