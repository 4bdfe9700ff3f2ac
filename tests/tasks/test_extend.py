"""Extend: the true bandwidth is found, pieces are the whole, and what was recorded stays."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from harken import models
from harken.cli import main
from harken.data.audio import Audio, read, resample, write
from harken.data.mixing import low_pass
from harken.errors import CheckpointError, InputError
from harken.models.enhance.ap_bwe import APBWE, APBWEConfig
from harken.signal.band_replication import BandReplication
from harken.signal.low_pass import LowPass
from harken.tasks.bandwidth import BandwidthMeter
from harken.tasks.extend import Run, extend
from harken.tasks.extend_files import extend_files

CONFIG = APBWEConfig(channels=8, layers=2, n_fft=64, hop_length=16, win_length=64)


def tiny(**changes) -> APBWE:
    torch.manual_seed(0)
    return APBWE(replace(CONFIG, **changes)).eval()


def speechlike(rate=16000, seconds=1.0, seed=0):
    """Noise that falls by 9 dB an octave, with pauses."""
    count = round(rate * seconds)
    rng = np.random.default_rng(seed)
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / rate), 200)
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) * (frequency / 200) ** -1.5, count)
    noise *= 0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(count) / rate)
    return (0.3 * noise / np.abs(noise).max()).astype(np.float32)


@pytest.mark.parametrize(
    ("rate", "end"), [(48000, 4000), (48000, 8000), (16000, 3400), (44100, 11000), (16000, 8000), (8000, 4000)]
)
def test_the_true_bandwidth_is_found_whatever_the_rate(rate, end):
    samples = speechlike(rate)
    if end < rate / 2:
        samples = resample(resample(samples, rate, 2 * end), 2 * end, rate)
    meter = BandwidthMeter(rate)
    for part in np.array_split(np.round(samples * 32767) / 32768, 7):  # as 16 bits have it
        meter.add(part[:, None].astype(np.float32))
    assert meter.bandwidth == pytest.approx(end, rel=0.1)


def test_silence_has_no_bandwidth():
    meter = BandwidthMeter(16000)
    meter.add(np.zeros((5000, 2), np.float32))
    assert meter.bandwidth == 0


@pytest.mark.parametrize("keep", [True, False])
def test_pieces_are_the_whole(keep):
    narrow = low_pass(speechlike(), 3500, 16000)
    whole, pieces = (extend(narrow, rate=16000, model=tiny(), chunk=c, keep_band=keep) for c in (10.0, 0.11))
    assert np.abs(whole - pieces).max() < 1e-5
    assert np.abs(whole).max() > 0.1


def test_the_recorded_band_is_kept():
    narrow = low_pass(speechlike(), 3500, 16000)
    made = extend(narrow, rate=16000, model=tiny())
    low = LowPass(2500.0, 16000)
    error, kept = (low(torch.from_numpy(x)[None]) for x in (made - narrow, narrow))
    assert error.square().mean() < 1e-5 * kept.square().mean()
    assert not np.allclose(made, narrow, atol=1e-4)


def test_the_result_has_the_level_of_the_recording():
    narrow = low_pass(speechlike(), 3500, 16000)
    loud, soft = (extend(narrow * gain, rate=16000, model=tiny()) for gain in (1.0, 2**-10))
    assert np.allclose(loud * np.float32(2**-10), soft, atol=1e-8)


@pytest.mark.parametrize(("rate", "frames"), [(8000, 4000), (11025, 5001), (48000, 9000), (16000, 1)])
def test_any_rate_and_length_comes_out_as_long_as_it_was(rate, frames):
    samples = np.stack((speechlike(rate)[:frames], np.zeros(frames, np.float32)), 1)
    made = extend(Audio(samples, rate), model=tiny())
    assert (made.rate, made.channels, made.frames) == (16000, 2, round(frames * 16000 / rate))
    assert not made.samples[:, 1].any()


def test_tensors_come_back_as_tensors():
    assert extend(torch.from_numpy(speechlike(8000))[None], rate=8000, model=tiny()).shape == (1, 16000)


def test_copies_fill_the_missing_band_and_sinc_does_not():
    narrow = low_pass(speechlike(), 3500, 16000)
    above = [
        np.square(np.fft.rfft(extend(narrow, rate=16000, model=name))[4500:]).mean() for name in ("copy-up", "sinc")
    ]
    assert abs(above[0]) > 1e4 * abs(above[1])


def test_replication_leaves_what_is_below():
    x = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    made = BandReplication(16000, 8000).extend(x)
    low = LowPass(3000.0, 16000)
    assert torch.allclose(low(made)[:, 600:-600], low(x)[:, 600:-600], atol=1e-2)


def test_what_fills_its_band_is_left_as_it_is(tmp_path):
    samples = speechlike()
    write(tmp_path / "a.wav", Audio(samples, 16000), subtype="FLOAT")
    report = extend_files(tmp_path / "a.wav", model=tiny())
    assert np.array_equal(read(tmp_path / "a.extended.wav").samples[:, 0], samples)
    assert report.files[0].notes == ["nothing added: the recording reaches 8.0 kHz already"]


def test_a_wide_file_with_a_narrow_band_is_told(tmp_path):
    narrow = resample(resample(speechlike(48000), 48000, 8000), 8000, 48000)
    write(tmp_path / "a.wav", Audio(narrow, 48000))
    file = extend_files(tmp_path / "a.wav", model=tiny(), chunk=0.5).files[0]
    assert file.bandwidth_hz == pytest.approx(3950, abs=200)
    assert "though it has 48 kHz" in file.notes[0]
    assert read(tmp_path / "a.extended.wav").rate == 16000


def test_weights_of_another_rate_are_refused(tmp_path):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "README.md").write_text("a card")
    tiny().save_pretrained(tmp_path / "w")
    assert Run.load("ap-bwe", tmp_path / "w").to == 16000
    with pytest.raises(CheckpointError, match="these weights make 16000 Hz, not 48000"):
        Run.load("ap-bwe", tmp_path / "w", to=48000)


def test_a_bare_checkpoint_takes_the_rates_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr("harken.models.load", lambda slug, weights: tiny())
    (tmp_path / "g.pt").write_bytes(b"")
    run = Run.load("ap-bwe", tmp_path / "g.pt", to=48000, source_rate=12000)
    assert (run.to, run.source_rate, run.model.config.sample_rate) == (48000, 12000, 48000)


def test_memory_does_not_grow_with_length(tmp_path):
    import tracemalloc

    peaks = []
    for seconds in (20, 40):
        write(tmp_path / "a.wav", Audio(low_pass(speechlike(8000, seconds), 3000, 8000), 8000))
        tracemalloc.start()
        extend_files(tmp_path / "a.wav", model="sinc", to=16000, chunk=1, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"chunk": 0}, "chunk must be"), ({"to": 100}, "new rate"), ({"model": "sinc", "weights": "x"}, "no weights")],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        extend(np.ones(100), rate=8000, **options)


def test_the_command_reports_each_file_and_counts_failures(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.wav", Audio(speechlike(8000), 8000))
    (tmp_path / "in" / "bad.wav").write_text("not audio")
    command = ["extend", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "--to", "16000", "--model", "copy-up"]
    assert main([*command, "--json", str(tmp_path / "report.json")]) == 1
    said, report = capsys.readouterr(), json.loads((tmp_path / "report.json").read_text())
    assert "4.0 kHz" in said.out and "8 to 16 kHz" in said.out
    assert "1 of 2 inputs failed" in said.err
    assert (report["task"], report["files"][0]["output_rate"]) == ("extend", 16000)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.wav"]


def test_without_weights_the_command_says_how_to_make_some(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(models, "weights_folder", lambda slug: None)
    write(tmp_path / "a.wav", Audio(speechlike(8000), 8000))
    assert main(["extend", str(tmp_path / "a.wav"), "--to", "48000"]) == 2
    assert "harken train ap-bwe --to 48000" in capsys.readouterr().err


def test_scores_of_a_pair_say_which_band_is_wrong(tmp_path, capsys):
    wide = speechlike()
    for name, samples in (("wide", wide), ("narrow", low_pass(wide, 3500, 16000))):
        write(tmp_path / f"{name}.wav", Audio(samples, 16000))
    pair = [str(tmp_path / f"{name}.wav") for name in ("wide", "narrow")]
    assert main(["score", "extend", *pair, "--above", "4100", "--metrics", "lsd_high,lsd_low", "--json", "-"]) == 0
    scores = json.loads(capsys.readouterr().out)["mean"]
    assert scores["lsd_high"] > 3 * scores["lsd_low"]
    assert main(["score", "extend", *pair, "--above", "9000"]) == 2
