"""Many files: which, where to, and that a bad one harms nothing but itself."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from harken.data.audio import Audio, open_audio, read, write
from harken.errors import InputError, OutputError
from harken.tasks.enhance_files import enhance_files


def record(path, *, seed=0, rate=16000, channels=1, frames=2000, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, Audio(np.random.default_rng(seed).normal(0, 0.1, (frames, channels)), rate), **options)
    return path


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "rate", "channels", "options"),
    [
        ("a.wav", 192000, 8, {"subtype": "PCM_24"}),
        ("a.wav", 8000, 1, {"subtype": "FLOAT"}),
        ("a.flac", 44100, 2, {}),
        ("a.ogg", 48000, 1, {}),
        ("a.mp3", 44100, 2, {}),
    ],
)
def test_the_result_is_stored_like_its_input_beside_it(identity, tmp_path, name, rate, channels, options):
    source = record(tmp_path / name, rate=rate, channels=channels, frames=rate // 4, **options)
    report = enhance_files(source)
    target = tmp_path / f"a.enhanced{source.suffix}"
    assert report.files[0].output == str(target)
    with open_audio(source) as one, open_audio(target) as two:
        assert (one.rate, one.channels, one.encoding, one.frames) == (two.rate, two.channels, two.encoding, two.frames)


def test_one_input_one_named_output_in_another_format(identity, tmp_path):
    source = record(tmp_path / "a.wav")
    enhance_files([source], tmp_path / "b.flac")
    assert np.abs(read(tmp_path / "b.flac").samples - read(source).samples).max() < 1e-4


def test_one_input_into_a_folder_that_is_made(identity, tmp_path):
    source = record(tmp_path / "a.wav")
    enhance_files(source, tmp_path / "new")
    enhance_files(source, f"{tmp_path}/other.d/")
    assert tree(tmp_path) == ["a.wav", "new/a.wav", "other.d/a.wav"]


def test_a_folder_keeps_its_tree_and_only_audio_is_taken(identity, tmp_path):
    for name in ("in/a.wav", "in/deep/b.flac", "in/.hidden/c.wav"):
        record(tmp_path / name)
    (tmp_path / "in" / "notes.txt").write_text("not audio")
    report = enhance_files(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["a.wav", "deep/b.flac"]
    assert len(report.done) == 2


def test_patterns_are_expanded(identity, tmp_path):
    record(tmp_path / "x" / "a.wav")
    record(tmp_path / "y" / "b.wav")
    record(tmp_path / "y" / "c.flac")
    enhance_files(str(tmp_path / "**" / "*.wav"), tmp_path / "out")
    assert tree(tmp_path / "out") == ["x/a.wav", "y/b.wav"]
    with pytest.raises(InputError, match="no audio file matches"):
        enhance_files(str(tmp_path / "*.wav"))


def test_a_pattern_takes_hidden_files_only_when_it_says_so(identity, tmp_path):
    record(tmp_path / "a.wav")
    record(tmp_path / ".b.wav")
    record(tmp_path / ".deep" / "c.wav")
    enhance_files(str(tmp_path / "**"), tmp_path / "out")
    assert tree(tmp_path / "out") == ["a.wav"]
    enhance_files(str(tmp_path / ".*.wav"), tmp_path / "hidden")
    assert tree(tmp_path / "hidden") == [".b.wav"]


@pytest.mark.parametrize("pattern", ["x**.wav", "*/../../*.wav"])
def test_a_pattern_that_cannot_be_followed_is_told(identity, tmp_path, pattern):
    record(tmp_path / "in" / "a.wav")
    with pytest.raises(InputError, match=r"no audio file matches|is not a pattern|goes up"):
        enhance_files(str(tmp_path / "in" / pattern), tmp_path / "out" / "deep")
    assert tree(tmp_path) == ["in/a.wav"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX pipes")
def test_a_named_pipe_is_read_once(identity, tmp_path):
    source, pipe = record(tmp_path / "a.wav"), tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=lambda: pipe.write_bytes(source.read_bytes()), daemon=True)
    feeder.start()
    enhance_files(pipe, tmp_path / "b.wav")
    assert read(tmp_path / "b.wav").frames == 2000


def test_results_are_not_enhanced_again(identity, tmp_path):
    record(tmp_path / "a.wav")
    enhance_files(tmp_path)
    enhance_files(tmp_path)
    assert tree(tmp_path) == ["a.enhanced.wav", "a.wav"]
    enhance_files([tmp_path / "a.wav", tmp_path / "a.enhanced.wav"])  # as a shell's *.wav would say
    assert tree(tmp_path) == ["a.enhanced.wav", "a.wav"]
    enhance_files(tmp_path, tmp_path / "out")
    enhance_files(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "out").exists()


def test_a_broken_file_harms_nothing_but_itself(identity, tmp_path):
    for index in range(3):
        record(tmp_path / "in" / f"{index}.wav", seed=index)
    (tmp_path / "in" / "bad.wav").write_bytes(b"not audio at all")
    nan = np.full(1000, np.nan, np.float32)
    soundfile.write(tmp_path / "in" / "nan.wav", nan, 16000, subtype="FLOAT")
    report = enhance_files(tmp_path / "in", tmp_path / "out")
    assert tree(tmp_path / "out") == ["0.wav", "1.wav", "2.wav"]
    assert [Path(file.input).name for file in report.failed] == ["bad.wav", "nan.wav"]
    assert "not an audio file" in report.failed[0].error
    assert "1000 NaN" in report.failed[1].error


def test_the_report_is_plain_data_with_levels(identity, tmp_path):
    identity.gain = 0.1
    source = record(tmp_path / "a.wav", rate=48000, frames=48000)
    file = json.loads(json.dumps(enhance_files(source).as_dict()))["files"][0]
    assert (file["seconds"], file["rate"], file["channels"], file["encoding"]) == (1.0, 48000, 1, "WAV PCM_16")
    assert file["input_level_dbfs"] - file["output_level_dbfs"] == pytest.approx(20, abs=0.1)
    assert file["noise_floor_drop_db"] == pytest.approx(20, abs=0.3)
    assert file["notes"] == ["nothing above 8 kHz: the model works at 16 kHz"]
    assert file["real_time_factor"] > 0


def test_an_output_never_replaces_an_input_unasked(identity, tmp_path):
    source = record(tmp_path / "a.wav")
    before = source.read_bytes()
    os.link(source, tmp_path / "same.wav")
    for target in (source, tmp_path / "same.wav"):
        with pytest.raises(OutputError, match="is an input"):
            enhance_files(source, target)
    with pytest.raises(OutputError, match="is an input"):
        enhance_files(tmp_path, tmp_path)
    assert source.read_bytes() == before
    identity.gain = 0.5
    enhance_files(source, source, overwrite=True)
    assert source.read_bytes() != before


def test_results_of_one_name_are_refused_before_any_work(identity, tmp_path):
    one, two = record(tmp_path / "x" / "a.wav"), record(tmp_path / "y" / "a.wav")
    with pytest.raises(OutputError, match="would both become"):
        enhance_files([one, two], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_name_is_not_the_working_folder(identity, tmp_path, monkeypatch):
    source = record(tmp_path / "in" / "a.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="name is empty"):
        enhance_files("")
    with pytest.raises(OutputError, match="name is empty"):
        enhance_files(source, "")
    assert tree(tmp_path) == ["in/a.wav"]


def test_several_results_need_a_folder(identity, tmp_path):
    one, two = record(tmp_path / "a.wav"), record(tmp_path / "b.wav")
    with pytest.raises(OutputError, match="it is a file"):
        enhance_files([one, two], two)
    with pytest.raises(OutputError, match="takes one result"):
        enhance_files([one, two], "-")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_in_the_middle_leaves_no_partial_output(identity, tmp_path, stop):
    source = record(tmp_path / "a.wav", frames=16000 * 6)

    def interrupt(name, done, total):
        if done > 2:
            raise stop

    with pytest.raises(stop):
        enhance_files(source, chunk=2, progress=interrupt)
    assert tree(tmp_path) == ["a.wav"]


def test_a_disk_that_fills_up_leaves_no_partial_output(identity, tmp_path, monkeypatch):
    source = record(tmp_path / "a.wav", frames=16000 * 6)
    taken = []

    def fills_up(self, data):
        taken.append(len(data))
        if len(taken) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", fills_up)
    with pytest.raises(OutputError, match="the disk is full"):
        enhance_files(source, chunk=2)
    assert tree(tmp_path) == ["a.wav"]


def test_the_output_folder_cannot_be_made(identity, tmp_path):
    source = record(tmp_path / "in" / "a.wav").parent
    (tmp_path / "file").write_text("")
    report = enhance_files([source, record(tmp_path / "b.wav")], tmp_path / "file" / "below")
    assert len(report.failed) == 2
    assert "cannot make the folder" in report.failed[0].error


def test_a_picture_is_drawn_beside_the_output(identity, tmp_path):
    pytest.importorskip("matplotlib")
    source = record(tmp_path / "a.wav", frames=16000)
    report = enhance_files(source, plot=True)
    assert report.files[0].picture == str(tmp_path / "a.enhanced.wav.png")
    assert (tmp_path / "a.enhanced.wav.png").read_bytes()[:4] == b"\x89PNG"


def test_memory_does_not_grow_with_length(identity, tmp_path):
    import tracemalloc

    peaks = []
    for seconds in (15, 60):
        source = record(tmp_path / f"{seconds}.wav", frames=16000 * seconds)
        tracemalloc.start()
        enhance_files(source, chunk=2)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]
