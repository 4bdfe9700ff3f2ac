"""Decoding as signals arrive: equal to decoding the stretches of the whole, however it is cut; pipes; latency."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from harken.cli import main
from harken.data.brain import Recording, Trials
from harken.data.brain_output import write_recording
from harken.errors import CapabilityError, InputError
from harken.tasks import stream_brain
from harken.tasks.stream_brain import DecoderStream, chunks_of, chunks_of_pipe

pytest.importorskip("sklearn")
pytest.importorskip("ot")


class Loudest:
    """Names the channel with the most power."""

    channels_, samples_, sfreq_, ch_names_ = 2, 32, 64.0, None
    classes_ = np.array(["left", "right"])

    def predict_proba(self, x):
        power = (x.astype(float) ** 2).sum(-1)
        return power / power.sum(-1, keepdims=True)

    def predict(self, x):
        return self.classes_[self.predict_proba(x).argmax(-1)]


def signal(samples=200):
    return np.random.default_rng(0).standard_normal((2, samples)).astype(np.float32)


@pytest.mark.parametrize("chunk", [1, 7, 32, 50, 200])
def test_decisions_equal_those_on_the_whole_however_it_is_cut(chunk):
    x = signal()
    flow = DecoderStream(Loudest(), 64.0, step=10)
    made = [d for part in chunks_of(Recording(x, 64.0, ("a", "b")), chunk) for d in flow.push(part)]
    ends = range(32, 201, 10)
    assert [d.seconds for d in made] == pytest.approx([end / 64 for end in ends])
    wanted = [Loudest().predict_proba(x[None, :, end - 32 : end])[0] for end in ends]
    np.testing.assert_allclose([d.probabilities for d in made], wanted, rtol=1e-6)
    assert all(d.latency_ms >= 0 for d in made)


def test_filters_carry_their_state_from_chunk_to_chunk():
    x = signal(400)
    found = []
    for chunk in (3, 400):
        flow = DecoderStream(Loudest(), 64.0, step=16, band=(4, 12), notch=25)
        found.append(
            [d.probabilities for part in chunks_of(Recording(x, 64.0, ("a", "b")), chunk) for d in flow.push(part)]
        )
    np.testing.assert_allclose(*found, rtol=1e-4)


def test_a_decoder_without_probabilities_names_labels():
    silent = SimpleNamespace(channels_=2, samples_=32, predict=lambda x: ["yes"])
    made = DecoderStream(silent, 64.0, step=50).push(signal(40))
    assert [(d.label, d.probabilities) for d in made] == [("yes", ())]


def test_real_time_waits_for_what_is_due():
    waited = []
    list(chunks_of(Recording(signal(64), 64.0, ("a", "b")), 16, real_time=True, sleep=waited.append))
    assert waited == pytest.approx([0.25, 0.5, 0.75, 1.0], abs=0.05)


def test_a_pipe_of_floats_is_volts_by_channel():
    x = signal(50)
    pipe = io.BytesIO(np.ascontiguousarray(x.T * 1e6, "<f4").tobytes())
    np.testing.assert_allclose(np.concatenate(list(chunks_of_pipe(pipe, 2, 7)), 1), x, rtol=1e-5)
    with pytest.raises(InputError, match="bytes into a sample"):
        list(chunks_of_pipe(io.BytesIO(b"12345"), 2, 7))


@pytest.mark.border
def test_what_cannot_be_streamed_is_refused():
    flow = DecoderStream(Loudest(), 64.0, step=1)
    for chunk, message in [(np.zeros((3, 5)), "2 channels"), (np.full((2, 5), np.nan), "NaN")]:
        with pytest.raises(InputError, match=message):
            flow.push(chunk)
    with pytest.raises(InputError, match="cannot filter at 40"):
        DecoderStream(Loudest(), 64.0, step=1, band=(1, 40))
    with pytest.raises(CapabilityError):
        DecoderStream(object(), 64.0, step=1)
    with pytest.raises(InputError, match="is it fitted"):
        DecoderStream(SimpleNamespace(predict=None), 64.0, step=1)


def fitted(folder):
    from harken.models.brain import GeometricClassifier

    y = np.arange(30) % 2
    x = np.random.default_rng(0).standard_normal((30, 2, 64)) * 1e-6 * (1 + 3 * y[:, None, None])
    trials = Trials(x, y, ("soft", "loud"), 64.0, ("a", "b"))
    pytest.importorskip("mne")
    model = GeometricClassifier(epochs=20, neighbours=4, dimensions=2, iterations=0)
    model.fit(trials.as_epochs(), trials.labels).save(folder)


def test_the_command_decides_line_by_line_and_tells_its_latency(tmp_path, capsys):
    fitted(tmp_path / "decoder")
    loud = np.random.default_rng(1).standard_normal((2, 640)).astype(np.float32) * 4e-6
    write_recording(Recording(loud, 64.0, ("a", "b"), name="a"), tmp_path / "a.npz")
    call = ["brain", "stream", str(tmp_path / "decoder"), str(tmp_path / "a.npz"), "--step", "1"]
    assert main([*call, "--plot", str(tmp_path / "a.png"), "--report", str(tmp_path / "a.json")]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 10
    assert sum(line["label"] == "loud" for line in lines) >= 8
    assert "latency" in err
    assert json.loads((tmp_path / "a.json").read_text())["decisions"] == 10
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_command_reads_standard_input(tmp_path, capsys, monkeypatch):
    fitted(tmp_path / "decoder")
    pipe = io.BytesIO(np.ones((200, 2), "<f4").tobytes())
    monkeypatch.setattr(stream_brain, "standard_input", lambda: pipe)
    assert main(["brain", "stream", str(tmp_path / "decoder"), "-", "--step", "0.5"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_signal_that_is_too_short_is_said_to_be(tmp_path, capsys):
    fitted(tmp_path / "decoder")
    write_recording(Recording(signal(20), 64.0, ("a", "b"), name="a"), tmp_path / "a.npz")
    assert main(["brain", "stream", str(tmp_path / "decoder"), str(tmp_path / "a.npz")]) == 2
    assert "shorter than a trial" in capsys.readouterr().err
