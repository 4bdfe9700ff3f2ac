"""Audio files in and out: every format, and everything that can be wrong with a file or a disk."""

from __future__ import annotations

import errno
import io
import resource
from itertools import pairwise

import numpy as np
import pytest
import soundfile

from harken.data import audio as module
from harken.data.audio import Audio, open_audio, open_writer, output_format, read, resample, resample_blocks, write
from harken.errors import InputError, OutputError


def noise(frames=1000, channels=1, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, (frames, channels)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".caf", ".w64"])
def test_lossless_formats_round_trip_to_the_last_bit_of_their_sample_format(tmp_path, suffix):
    samples = noise(3000, 2)
    write(tmp_path / f"x{suffix}", Audio(samples, 44100))
    back = read(tmp_path / f"x{suffix}")
    assert (back.rate, back.samples.shape) == (44100, samples.shape)
    assert np.abs(back.samples - samples).max() <= 1 / 32768


@pytest.mark.parametrize("suffix", [".ogg", ".mp3", ".opus"])
def test_lossy_formats_keep_rate_channels_and_length(tmp_path, suffix):
    write(tmp_path / f"x{suffix}", Audio(noise(48000, 2), 48000))
    back = read(tmp_path / f"x{suffix}")
    assert (back.rate, back.channels, back.frames) == (48000, 2, 48000)


def test_float_wav_is_exact_and_integer_wav_clips(tmp_path):
    samples = np.array([[0.1], [1.5], [-2.0]], np.float32)
    write(tmp_path / "f.wav", Audio(samples, 8000), subtype="FLOAT")
    write(tmp_path / "i.wav", Audio(samples, 8000))
    assert np.array_equal(read(tmp_path / "f.wav").samples, samples)
    assert np.allclose(read(tmp_path / "i.wav").samples[:, 0], [0.1, 1, -1], atol=1e-4)


def test_many_channels_and_high_rates(tmp_path):
    samples = noise(500, 8)
    write(tmp_path / "x.wav", Audio(samples, 192000), subtype="FLOAT")
    assert np.array_equal(read(tmp_path / "x.wav").samples, samples)


def test_read_takes_file_objects_and_standard_input(tmp_path, monkeypatch):
    write(tmp_path / "x.flac", Audio(noise(), 16000))
    data = (tmp_path / "x.flac").read_bytes()
    assert read(io.BytesIO(data)).frames == 1000

    class Stdin:
        buffer = io.BytesIO(data)

    monkeypatch.setattr("sys.stdin", Stdin)
    assert read("-").frames == 1000


def test_standard_input_is_bounded(monkeypatch):
    class Stdin:
        buffer = io.BytesIO(bytes(5 << 20))

    monkeypatch.setattr("sys.stdin", Stdin)
    monkeypatch.setattr(module, "PIPE_LIMIT", 1 << 20)
    with pytest.raises(InputError, match="longer than"):
        read("-")


def test_blocks_with_overlap_cover_the_file(tmp_path):
    samples = noise(1000, 2)
    write(tmp_path / "x.wav", Audio(samples, 16000), subtype="FLOAT")
    with open_audio(tmp_path / "x.wav") as audio:
        blocks = list(audio.blocks(300, overlap=50))
        assert len(list(audio.blocks(300))) == 4  # a second pass starts at the start
    assert all(np.array_equal(one[-50:], two[:50]) for one, two in pairwise(blocks))
    assert np.array_equal(np.concatenate([blocks[0], *(block[50:] for block in blocks[1:])]), samples)


@pytest.mark.parametrize(("source", "target"), [(8000, 16000), (44100, 16000), (16000, 48000)])
def test_streamed_resampling_equals_resampling_at_once(source, target):
    samples = noise(5000, 2)
    blocks = resample_blocks((samples[i : i + 777] for i in range(0, 5000, 777)), source, target, 2)
    streamed, whole = np.concatenate(list(blocks)), resample(samples, source, target)
    assert streamed.shape == whole.shape
    assert np.abs(streamed - whole).max() < 1e-4


def test_resampling_does_not_delay():
    time = np.arange(4800) / 48000
    pulse = np.exp(-(((time - 0.05) / 0.002) ** 2)).astype(np.float32)
    assert np.argmax(resample(pulse, 48000, 16000)) == round(0.05 * 16000)


def test_audio_checks_what_it_holds():
    assert Audio(np.zeros(10), 8000).samples.shape == (10, 1)
    assert Audio(noise(10, 3), 8000).mono().channels == 1
    with pytest.raises(InputError, match="floats of shape"):
        Audio(np.zeros(10, np.int16), 8000)
    with pytest.raises(InputError, match="rate of 10 Hz"):
        Audio(np.zeros(10), 10)
    with pytest.raises(InputError, match="channels"):
        Audio(np.zeros((10, 65)), 8000)


def broken(folder, kind):
    """A file that cannot be read, and what the error should say."""
    path = folder / "x.wav"
    if kind == "missing":
        return path, "no such file"
    if kind == "folder":
        return folder, "it is a folder"
    if kind == "empty":
        path.touch()
        return path, "is empty"
    if kind == "text":
        path.write_text("hello " * 100)
        return path, "not an audio file"
    if kind == "raw":
        path = folder / "x.raw"
        path.write_bytes(bytes(100))
        return path, "not an audio file"
    if kind == "no frames":
        soundfile.write(path, np.zeros((0, 1)), 8000)
        return path, "no samples"
    if kind == "cut wav":
        write(path, Audio(noise(), 8000))
        path.write_bytes(path.read_bytes()[:1000])
        return path, "truncated"
    if kind == "cut flac":
        path = folder / "x.flac"
        write(path, Audio(noise(48000), 8000))
        path.write_bytes(path.read_bytes()[:40000])
        return path, "damaged|truncated"
    if kind == "cut mp3":
        path = folder / "x.mp3"
        write(path, Audio(noise(48000), 8000))
        path.write_bytes(path.read_bytes()[:3000])
        return path, "truncated"
    if kind == "too many channels":
        soundfile.write(path, np.zeros((10, 70)), 8000)
        return path, "70 channels"
    if kind == "absurd rate":
        soundfile.write(path, np.zeros(10), 100)
        return path, "rate of 100 Hz"
    if kind == "NaN":
        samples = np.zeros((4000, 2), np.float32)
        samples[2000] = np.nan
        samples[3000, 0] = np.inf
        soundfile.write(path, samples, 8000, subtype="FLOAT")
        return path, r"3 NaN or infinite samples, the first at 0\.250 s \(frame 2000\)"
    raise AssertionError(kind)


BROKEN = ["missing", "folder", "empty", "text", "raw", "no frames", "cut wav", "cut flac", "cut mp3", "NaN"]


@pytest.mark.parametrize("kind", [*BROKEN, "too many channels", "absurd rate"])
def test_a_broken_file_gives_one_line_that_names_it(tmp_path, kind):
    path, message = broken(tmp_path, kind)
    with pytest.raises(InputError, match=message) as raised:
        read(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_header_that_claims_the_moon_allocates_nothing(tmp_path):
    path = tmp_path / "x.wav"
    write(path, Audio(noise(), 8000))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = (0x7FFFE000).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(InputError, match="truncated"):
        read(path)


def test_a_wav_written_to_a_pipe_is_read_though_it_states_no_length(tmp_path):
    path = tmp_path / "x.wav"
    write(path, Audio(noise(), 8000))
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert read(path).frames == 1000


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_interrupted_writer_leaves_the_old_file_and_nothing_else(tmp_path, stop):
    target = tmp_path / "x.wav"
    target.write_bytes(b"old")
    with pytest.raises(stop), open_writer(target, 8000, 1) as writer:
        writer.write(noise())
        raise stop
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_disk_that_takes_no_more_is_reported_and_leaves_nothing(tmp_path, suffix):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))  # the system itself refuses further bytes
    try:
        with pytest.raises(OutputError, match="disk"):
            write(tmp_path / f"x{suffix}", Audio(noise(48000), 48000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_called_by_its_name(tmp_path, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(soundfile.SoundFile, "write", full)
    with pytest.raises(OutputError, match="the disk is full"):
        write(tmp_path / "x.wav", Audio(noise(), 8000))
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_written(tmp_path, monkeypatch):
    sound = Audio(noise(10), 8000)
    with pytest.raises(OutputError, match="it is a folder"):
        write(tmp_path, sound)
    with pytest.raises(OutputError, match="make it first"):
        write(tmp_path / "nowhere" / "x.wav", sound)
    with pytest.raises(OutputError, match="not a regular file"):
        write("/dev/null", sound)
    with pytest.raises(OutputError, match="end its name in one of"):
        write(tmp_path / "x.doc", sound)
    with pytest.raises(OutputError, match=r"MP3 does not hold .* 192000 Hz"):
        write(tmp_path / "x.mp3", Audio(noise(10), 192000))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match="read-only"):
        write(tmp_path / "x.wav", sound)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (("WAV", "FLOAT"), "x.wav", ("WAV", "FLOAT")),
        (("WAVEX", "PCM_24"), "x.wav", ("WAVEX", "PCM_24")),
        (("WAV", "PCM_24"), "x.flac", ("FLAC", "PCM_24")),
        (("WAV", "FLOAT"), "x.flac", ("FLAC", "PCM_24")),
        (("FLAC", "PCM_16"), "x.wav", ("WAV", "PCM_16")),
        (("OGG", "OPUS"), "x.ogg", ("OGG", "OPUS")),
        (("MP3", "MPEG_LAYER_III"), "x.mp3", ("MP3", "MPEG_LAYER_III")),
        (("MP3", "MPEG_LAYER_III"), "x.wav", ("WAV", "PCM_16")),
    ],
)
def test_outputs_are_stored_like_their_input_where_the_format_allows(source, target, expected):
    assert output_format(target, like=module.Encoding(*source)) == expected


def test_a_stream_takes_long_audio_in_any_format_and_refuses_in_one_line():
    sound = Audio(np.zeros((200_000, 2)), 16000)
    for format in ("WAV", "FLAC", "OGG"):
        stream = io.BytesIO()
        write(stream, sound, format=format)
        assert read(io.BytesIO(stream.getvalue())).frames == 200_000
    for options in ({"format": "NOPE"}, {"format": "FLAC", "subtype": "FLOAT"}):
        with pytest.raises(OutputError, match="cannot write the stream as"):
            write(io.BytesIO(), sound, **options)
