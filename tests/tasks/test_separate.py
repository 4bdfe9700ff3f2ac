"""Separate: segments add up, any rate, length and channels, stems together or not at all, errors in a line."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.audio import Audio, read, write
from harken.errors import CapabilityError, CheckpointError, InputError, OutputError
from harken.models.separate.demucs import Demucs, DemucsConfig
from harken.tasks.chunking import overlap_add
from harken.tasks.separate import Run, separate
from harken.tasks.separate_files import separate_files

CONFIG = DemucsConfig(
    ("speech", "noise"), 8000, audio_channels=1, channels=4, depth=2, lstm_layers=0, resample=False, segment_length=4000
)


class Halves(Demucs):
    """Gives half of the mixture to each source: what comes out is known."""

    def forward(self, mix):
        made = mix[:, None].expand(-1, len(self.sources), -1, -1) / len(self.sources)
        return made[..., 5:-5]

    def valid_length(self, length):
        return length + 10


def halves(**changes):
    return Halves(DemucsConfig(**{**vars(CONFIG), **changes})).eval()


def tiny():
    torch.manual_seed(0)
    return Demucs(CONFIG).eval()


def sound(frames=9000, channels=1, seed=0):
    """Noise without an offset: each stem is given the offset of the whole."""
    made = 0.1 * np.random.default_rng(seed).standard_normal((frames, channels))
    return (made - made.mean(0) * (frames > 1)).astype(np.float32)


def pieces(samples, size):
    return [samples[start : start + size] for start in range(0, len(samples), size)]


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 377, 700])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_weights_sum_to_one_and_surroundings_are_where_they_should_be(frames, overlap):
    samples, context = sound(frames, 2), 13
    padded = np.pad(samples, ((context, context), (0, 0)))
    seen = []

    def process(held, length):
        start = next(i for i in range(frames) if np.array_equal(held, padded[i : i + length + 2 * context]))
        seen.append(start)
        return np.tile(held[context : context + length], (1, 3))

    made = np.concatenate(
        list(
            overlap_add(
                pieces(samples, 64), process, frames=frames, channels=2, segment=100, overlap=overlap, context=context
            )
        )
    )
    assert np.allclose(made, np.tile(samples, (1, 3)), atol=1e-6)
    assert seen == list(range(0, frames, int((1 - overlap) * 100)))


def test_one_segment_is_the_whole_in_one_pass():
    samples, model = sound(3000), tiny()
    made = separate(samples[:, 0], rate=8000, model=model)
    whole = model.separate(torch.from_numpy(samples.T)[None])[0, :, 0]
    assert list(made) == ["speech", "noise"]
    for stem, wanted in zip(made.values(), whole.detach().numpy(), strict=True):
        assert np.allclose(stem, wanted, atol=1e-5)


@pytest.mark.parametrize(("rate", "frames", "channels"), [(8000, 9000, 1), (44100, 30000, 2), (11025, 1, 3)])
@pytest.mark.parametrize("width", [1, 2])
def test_any_rate_length_and_channels(rate, frames, channels, width):
    audio = Audio(sound(frames, channels), rate)
    for stem in separate(audio, model=halves(audio_channels=width)).values():
        assert (stem.rate, stem.frames, stem.channels) == (rate, frames, channels)
    if rate == 8000:
        assert np.allclose(stem.samples, audio.samples / 2, atol=1e-5)


def test_each_group_of_channels_is_heard_at_its_own_level():
    samples = sound(5000, 3) * np.array([1.0, 0.01, 0.0], np.float32)
    made = separate(Audio(samples, 8000), model=halves(audio_channels=1))["speech"].samples
    assert np.allclose(made, samples / 2, atol=1e-6)
    assert not made[:, 2].any()


def test_the_rest_is_the_recording_without_the_stems():
    audio = Audio(sound(30000, 2), 44100)
    made = separate(audio, stems=["noise"], rest=True, model=halves())
    assert list(made) == ["noise", "rest"]
    assert np.allclose(made["noise"].samples + made["rest"].samples, audio.samples, atol=1e-6)


def test_shifts_are_the_same_each_time_and_average_to_what_is_known():
    samples = sound(9000)[:, 0]
    one, two = (separate(samples, rate=8000, model=tiny(), shifts=2)["speech"] for _ in range(2))
    assert np.array_equal(one, two)
    assert np.allclose(separate(samples, rate=8000, model=halves(), shifts=2)["noise"], samples / 2, atol=1e-5)


def test_tensors_come_back_as_tensors():
    made = separate(torch.from_numpy(sound(5000, 2).T.copy()), rate=8000, model=halves())
    assert made["speech"].shape == (2, 5000)


def test_stems_lie_in_a_folder_of_their_own_and_keep_format(tmp_path):
    write(tmp_path / "song.flac", Audio(sound(9000, 2), 8000), subtype="PCM_24")
    report = separate_files(tmp_path / "song.flac", model=halves(), plot=True)
    folder = tmp_path / "song.stems"
    assert sorted(path.name for path in folder.iterdir()) == ["noise.flac", "speech.flac", "stems.png"]
    assert report.files[0].encoding == "FLAC PCM_24"
    assert report.files[0].output == str(folder)
    assert report.files[0].stem_levels_dbfs["noise"] == pytest.approx(report.files[0].input_level_dbfs - 6, abs=0.1)
    again = separate_files(tmp_path, model=halves(), format="wav", stems=["noise"])  # the stems are not inputs
    assert [file.input for file in again.files] == [str(tmp_path / "song.flac")]
    assert (folder / "noise.wav").exists()
    assert (folder / "noise.flac").exists()


def test_a_folder_keeps_its_tree_and_one_failure_does_not_stop_the_rest(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    write(tmp_path / "in" / "a" / "x.wav", Audio(sound(), 8000))
    (tmp_path / "in" / "bad.wav").write_text("not audio")
    report = separate_files(tmp_path / "in", tmp_path / "out", model=halves())
    assert [file.error is None for file in report.files] == [False, True]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.wav")) == [
        "a/x/noise.wav",
        "a/x/speech.wav",
    ]


def test_all_stems_or_none(tmp_path, monkeypatch):
    write(tmp_path / "x.wav", Audio(sound(20000), 8000))
    calls = []
    whole = Run.split

    def breaks(self, columns):
        calls.append(1)
        if len(calls) > 4:
            raise OSError(28, "No space left on device")
        return whole(self, columns)

    monkeypatch.setattr(Run, "split", breaks)
    with pytest.raises(OSError, match="No space"):
        separate_files(tmp_path / "x.wav", tmp_path / "out", model=halves())
    assert len(calls) > 4
    assert list((tmp_path / "out").iterdir()) == []


def test_memory_does_not_grow_with_length(tmp_path):
    peaks = []
    for seconds in (20, 60):
        write(tmp_path / "a.wav", Audio(sound(8000 * seconds), 8000))
        tracemalloc.start()
        separate_files(tmp_path / "a.wav", model=halves(), rest=True, segment=1)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


def test_silence_stays_silent_and_is_told(tmp_path):
    write(tmp_path / "a.wav", Audio(np.zeros(4000, np.float32), 8000))
    report = separate_files(tmp_path / "a.wav", model=tiny())
    assert report.files[0].notes == ["the recording is silent"]
    assert not read(tmp_path / "a.stems" / "speech.wav").samples.any()


def test_what_the_model_cannot_hear_is_told(tmp_path):
    write(tmp_path / "a.wav", Audio(sound(9000), 48000))
    assert "higher frequencies are in no stem" in separate_files(tmp_path / "a.wav", model=halves()).files[0].notes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stems": ["vocals"]}, "stems are speech, noise: 'vocals'"),
        ({"stems": ["noise", "noise"]}, "got noise, noise"),
        ({"segment": 0}, "segment must be"),
        ({"overlap": 1.0}, "overlap must be"),
        ({"shifts": -1}, "shifts from 0"),
        ({"device": "abacus"}, "no device"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        separate(sound()[:, 0], rate=8000, model=halves(), **options)


def test_bad_samples_are_refused():
    bad = sound()[:, 0]
    bad[7] = np.nan
    with pytest.raises(InputError, match="NaN"):
        separate(bad, rate=8000, model=halves())
    with pytest.raises(InputError, match="nothing to separate"):
        separate(bad[:0], rate=8000, model=halves())
    with pytest.raises(CapabilityError, match="does not separate"):
        separate(sound()[:, 0], rate=8000, model=torch.nn.Linear(1, 1))


def test_damaged_weights_are_noticed():
    model = tiny()
    torch.nn.init.constant_(model.encoder[0][0].weight, float("nan"))
    with pytest.raises(CheckpointError, match="answered 'the samples' with NaN"):
        separate(sound()[:, 0], rate=8000, model=model)


def test_outputs_that_collide_are_refused(tmp_path):
    for name in ("x.wav", "x.flac"):
        write(tmp_path / name, Audio(sound(), 8000))
    with pytest.raises(OutputError, match="would both become"):
        separate_files([tmp_path / "x.wav", tmp_path / "x.flac"], model=halves())
    with pytest.raises(OutputError, match="name a folder with -o"):
        separate_files(tmp_path / "x.wav", "-", model=halves())
    (tmp_path / "song").mkdir()
    write(tmp_path / "song" / "speech.wav", Audio(sound(), 8000))
    write(tmp_path / "song.wav", Audio(sound(), 8000))
    with pytest.raises(OutputError, match="would lie beside the input"):
        separate_files([tmp_path / "song.wav", tmp_path / "song" / "speech.wav"], tmp_path, model=halves())
    (tmp_path / "x.stems").write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        separate_files(tmp_path / "x.wav", model=halves())


def test_the_command_writes_stems_and_a_report(tmp_path, capsys):
    tiny().save_pretrained(tmp_path / "w")
    write(tmp_path / "x.wav", Audio(sound(12000, 2), 16000))
    command = ["separate", str(tmp_path / "x.wav"), "-o", str(tmp_path / "out"), "--weights", str(tmp_path / "w")]
    assert main([*command, "--stems", "noise", "--rest", "--json", "json"]) == 0
    told = capsys.readouterr()
    file = json.loads(told.out)["files"][0]
    assert set(file["stems"]) == {"noise", "rest"}
    assert "noise" in told.err
    assert read(file["stems"]["rest"]).frames == 12000
    assert main([*command, "--stems", "tuba"]) == 2
    assert "'tuba' is none of them" in capsys.readouterr().err
    assert main([*command, "--format", "docx"]) == 2


@pytest.mark.parametrize("content", ["empty", "text", "one", "nan", "many"])
def test_hostile_files_are_an_error_of_one_line(tmp_path, capsys, content):
    tiny().save_pretrained(tmp_path / "w")
    path = tmp_path / "x.wav"
    if content in ("empty", "text"):
        path.write_text("" if content == "empty" else "riff raff")
    else:
        made = {"one": sound(1), "nan": np.full((100, 1), np.nan, np.float32), "many": sound(300, 32)}[content]
        write(path, Audio(made, 192_000), subtype="FLOAT")
    code = main(["separate", str(path), "--weights", str(tmp_path / "w"), "-q"])
    assert code == (0 if content in ("one", "many") else 2)
    assert len(capsys.readouterr().err.splitlines()) == (code == 2)


def test_without_weights_the_way_to_some_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("harken.models.weights_folder", lambda name: None)
    write(tmp_path / "x.wav", Audio(sound(), 8000))
    assert main(["separate", str(tmp_path / "x.wav")]) == 2
    assert "train some with 'harken train demucs'" in capsys.readouterr().err


def test_stems_choose_among_the_weights_that_ship(tmp_path, monkeypatch):
    tiny().save_pretrained(tmp_path / "demucs-speech")
    halves(sources=("drums", "bass")).save_pretrained(tmp_path / "demucs")
    monkeypatch.setattr(
        "harken.models.weights_folder", lambda name: tmp_path / name if (tmp_path / name).is_dir() else None
    )
    assert Run.load().stems == ("drums", "bass")
    assert Run.load(stems=["noise"]).model.sources == ("speech", "noise")
    with pytest.raises(InputError, match="they have drums, bass, speech, noise"):
        Run.load(stems=["vocals"])
