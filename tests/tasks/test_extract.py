"""Extract: files as a whole and live streams agree, any rate and one or two channels work, bad input is told."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.audio import Audio, read, write
from harken.errors import CapabilityError, CheckpointError, InputError
from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
from harken.models.separate.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from harken.tasks.extract import Run, extract
from harken.tasks.extract_files import extract_files
from harken.tasks.extract_live import extract_live

NET = LookOnceConfig(embedding_dim=8, channels=4, blocks=2, hidden=4, heads=1, stride=3, output="mask", memory=10)
ENCODER = SpeakerEncoderConfig(embedding_dim=8, hidden=8, layers=1, bands=12, partial=30, step=15)


def net():
    torch.manual_seed(0)
    return LookOnceToHear(NET).eval()


def encoder():
    torch.manual_seed(0)
    return SpeakerEncoder(ENCODER).eval()


def noise(frames, channels=2, seed=0):
    return (0.1 * np.random.default_rng(seed).standard_normal((frames, channels))).astype(np.float32)


CLIP = noise(16000, 1, seed=9)


def run():
    return Run.load(Audio(CLIP, 16000), model=net(), encoder=encoder())


def kept(samples, **options):
    return extract(samples, CLIP, model=net(), encoder=encoder(), **{"rate": 16000, **options})


@pytest.fixture
def weights(tmp_path):
    for name, model in (("net", net()), ("encoder", encoder())):
        model.save_pretrained(tmp_path / name)
    write(tmp_path / "clip.wav", Audio(CLIP, 16000))
    chosen = ["--weights", str(tmp_path / "net"), "--encoder-weights", str(tmp_path / "encoder")]
    return [*chosen, "--enroll", str(tmp_path / "clip.wav"), "-q"]


@pytest.mark.parametrize(("rate", "frames"), [(16000, 4000), (8000, 3001), (44100, 9000), (16000, 1)])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_length_comes_out_as_it_was(rate, frames, channels):
    made = extract(Audio(noise(frames, channels), rate), Audio(CLIP, 16000), model=net(), encoder=encoder())
    assert (made.rate, made.channels, made.frames) == (rate, channels, frames)
    assert np.isfinite(made.samples).all()


def test_a_file_equals_the_network_on_the_whole():
    samples = noise(5000)
    level = np.sqrt(np.mean(samples.astype(np.float64) ** 2)).astype(np.float32)
    with torch.inference_mode():
        wanted = net()(torch.from_numpy(samples.T / level)[None], run().embedding)[0].numpy().T * level
    np.testing.assert_allclose(kept(samples), wanted, atol=1e-6)


def test_the_result_has_the_level_of_the_recording():
    np.testing.assert_allclose(kept(noise(3000)) * 0.25, kept(noise(3000) * np.float32(0.25)), atol=1e-7)


def test_silence_stays_silence():
    assert not kept(np.zeros((2000, 2), np.float32)).any()


def test_several_examples_count_alike():
    clips = [CLIP, noise(16000, 1, seed=5)]
    both = Run.load([Audio(c, 16000) for c in clips], model=net(), encoder=encoder()).embedding
    each = [Run.load(Audio(c, 16000), model=net(), encoder=encoder()).embedding for c in clips]
    torch.testing.assert_close(both, torch.nn.functional.normalize(each[0] + each[1], dim=-1))
    assert both.norm().item() == pytest.approx(1)


def test_tensors_and_arrays_come_back_as_they_came():
    assert kept(torch.from_numpy(noise(500).T.copy())).shape == (2, 500)
    assert kept(noise(500, 1)[:, 0]).shape == (500,)


def test_files_are_reported_with_their_timing(tmp_path):
    write(tmp_path / "mix.wav", Audio(noise(12000), 24000), subtype="FLOAT")
    write(tmp_path / "clip.wav", Audio(CLIP, 16000))
    report = extract_files(tmp_path / "mix.wav", tmp_path / "clip.wav", model=net(), encoder=encoder(), plot=True)
    file = report.files[0]
    made = read(tmp_path / "mix.extracted.wav")
    assert (made.rate, made.frames, file.encoding, file.latency_ms) == (24000, 12000, "WAV FLOAT", 12.0)
    assert file.ms_per_chunk > 0 and (tmp_path / "mix.extracted.wav.png").is_file()
    assert file.notes == ["the example is shorter than 2 s: a longer one tells more"]


@pytest.mark.parametrize(("form", "kind", "scale"), [("s16le", "<i2", 32768), ("f32le", "<f4", 1)])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_live_stream_gives_what_came_as_long_as_it_was(form, kind, scale, channels):
    samples = noise(3000, channels)
    data = np.round(samples * scale).astype(kind) if scale > 1 else samples.astype(kind)
    sink = io.BytesIO()
    report = extract_live(run(), io.BytesIO(data.tobytes()), sink, channels=channels, format=form)
    made = np.frombuffer(sink.getvalue(), kind).reshape(-1, channels)
    assert len(made) == 3000 and made.any()
    assert report.latency_ms == 12.0
    assert report.chunks == 24 and report.p99_ms >= report.median_ms > 0


def test_a_live_stream_ends_up_at_what_a_file_gives():
    samples = noise(16000)
    sink = io.BytesIO()
    extract_live(run(), io.BytesIO(samples.astype("<f4").tobytes()), sink, format="f32le")
    made, whole = np.frombuffer(sink.getvalue(), "<f4").reshape(-1, 2)[4000:], kept(samples)[4000:]
    assert np.mean((made - whole) ** 2) < 0.02 * np.mean(whole**2)  # the level was not known at first


@pytest.mark.parametrize("rate", [8000, 48000])
def test_a_live_stream_of_another_rate(rate):
    sink = io.BytesIO()
    data = noise(rate // 4).astype("<f4").tobytes()
    report = extract_live(run(), io.BytesIO(data), sink, rate=rate, format="f32le")
    assert abs(len(sink.getvalue()) // 8 - rate // 4) < 40
    assert 12 < report.latency_ms < 23


def test_damage_in_a_live_stream_is_mended():
    samples = noise(1000)
    samples[300, 0] = np.nan
    sink = io.BytesIO()
    report = extract_live(run(), io.BytesIO(samples.astype("<f4").tobytes() + b"abc"), sink, format="f32le")
    assert report.mended == 1
    assert np.isfinite(np.frombuffer(sink.getvalue(), "<f4")).all()


def test_nothing_in_nothing_out():
    sink = io.BytesIO()
    assert extract_live(run(), io.BytesIO(b""), sink).chunks == 0
    assert sink.getvalue() == b""


@pytest.mark.parametrize("options", [{"rate": 10}, {"channels": 3}, {"format": "u8"}])
def test_impossible_live_streams_are_refused(options):
    with pytest.raises(InputError):
        extract_live(run(), io.BytesIO(b""), io.BytesIO(), **options)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (noise(100, 1), "0.5 s of a voice"),
        (np.zeros(16000, np.float32), "silent"),
        (np.full(16000, np.nan, np.float32), "NaN"),
        (noise(16000, 3), "3 channels"),
        ("-", "must be a file"),
        ([], "whom to keep"),
    ],
)
def test_useless_examples_are_told(clip, message):
    with pytest.raises(InputError, match=message):
        extract(noise(1000), clip, rate=16000, model=net(), encoder=encoder())


def test_recordings_that_are_not_ears_are_told():
    with pytest.raises(InputError, match="32 channels"):
        kept(noise(1000, 32))
    with pytest.raises(InputError, match="NaN"):
        kept(np.full((1000, 2), np.nan, np.float32))


def test_parts_that_do_not_fit_are_told():
    torch.manual_seed(0)
    wide = SpeakerEncoder(SpeakerEncoderConfig(embedding_dim=9, hidden=8, layers=1, bands=12))
    with pytest.raises(CheckpointError, match="9 numbers, the extractor takes 8"):
        extract(noise(1000), CLIP, rate=16000, model=net(), encoder=wide)
    with pytest.raises(CapabilityError, match="does not extract"):
        extract(noise(1000), CLIP, rate=16000, model=encoder(), encoder=encoder())
    with pytest.raises(InputError, match="no encoder named"):
        extract(noise(1000), CLIP, rate=16000, model=net(), encoder="ears")
    with pytest.raises(InputError, match="no extractor named"):
        extract(noise(1000), CLIP, rate=16000, model="ears", encoder=encoder())


def test_damaged_weights_do_not_write_noise():
    broken = net()
    with torch.no_grad():
        broken.lower.bias.fill_(float("nan"))
    with pytest.raises(CheckpointError, match="NaN"):
        extract(noise(1000), CLIP, rate=16000, model=broken, encoder=encoder())


def test_without_an_encoder_the_command_says_how_to_make_one(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.setattr("harken.models.weights_folder", lambda slug: None)
    write(tmp_path / "mix.wav", Audio(noise(2000), 16000))
    net_and_clip = weights[:2] + weights[4:]
    assert main(["extract", str(tmp_path / "mix.wav"), *net_and_clip]) == 2
    assert "harken train look-once --part enrolment'" in capsys.readouterr().err


def test_the_command_goes_on_after_a_broken_file(tmp_path, weights, capsys):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.wav", Audio(noise(2000), 16000))
    write(tmp_path / "in" / "many.wav", Audio(noise(2000, 5), 16000))
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert main(["extract", str(tmp_path / "in"), *weights, "-o", str(out), "--json", str(report)]) == 1
    assert "5 channels" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["a.wav"]
    assert json.loads(report.read_text())["task"] == "extract"


def test_the_command_in_a_pipeline(tmp_path, weights, monkeypatch, capsys):
    data = np.round(noise(2000) * 32768).astype("<i2").tobytes()
    sink = io.BytesIO()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    monkeypatch.setattr("harken.cli.extract._pipe_out", lambda: sink)
    assert main(["extract", "--live", *weights[:-1], "--report", str(tmp_path / "live.json")]) == 0
    assert len(sink.getvalue()) == len(data)
    assert json.loads((tmp_path / "live.json").read_text())["latency_ms"] == 12.0
    assert "output lags by 12 ms" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix.wav", "--live"], "name no files"),
        (["mix.wav", "--rate", "8000"], "add --live"),
        ([], "nothing to do"),
        (["--live", "--report", "json"], "standard output carries the sound"),
    ],
)
def test_misused_options_are_told(arguments, message, capsys):
    assert main(["extract", "--enroll", "clip.wav", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_resemblyzers_weights_are_taken_from_its_package_without_running_it(tmp_path, monkeypatch):
    from harken.tasks import extract as module

    with pytest.raises(InputError, match="pip install"):
        module._load_encoder("resemblyzer", None)
    folder = tmp_path / "resemblyzer"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    torch.save({"model_state": encoder().state_dict()}, folder / "pretrained.pt")
    monkeypatch.syspath_prepend(tmp_path)
    kept = encoder().state_dict()
    assert all(torch.equal(kept[n], t) for n, t in module._load_encoder("resemblyzer", None).state_dict().items())
