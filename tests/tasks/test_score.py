from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.audio import Audio, write
from harken.errors import InputError, MissingExtraError, OutputError
from harken.score import METRICS
from harken.tasks.pairing import Pair, run_pairs
from harken.tasks.score import score

CLEAN, NOISE = np.random.default_rng(0).standard_normal((2, 8000)) * 0.1
FAST = ["si_sdr", "segsnr"]


def at_snr(snr: float) -> np.ndarray:
    return CLEAN + NOISE * 10 ** (-snr / 20)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name, snr in {"a": 10, "b": 20, "deep/c": 30}.items():
        for side, samples in {"clean": CLEAN, "enhanced": at_snr(snr)}.items():
            path = tmp_path / side / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, Audio(samples, 16000))
    return tmp_path / "clean", tmp_path / "enhanced"


def test_folders_are_paired_by_path_and_averaged(folders):
    report = score(*folders, metrics=FAST)
    assert [file.name for file in report.files] == ["a.wav", "b.wav", "deep/c.wav"]
    assert [round(file.scores["si_sdr"]) for file in report.files] == [10, 20, 30]
    assert report.mean["si_sdr"] == pytest.approx(20, abs=0.3)
    assert report.exit_code == 0


def test_a_file_of_another_format_is_found_by_its_stem(folders):
    _, enhanced = folders
    (enhanced / "a.wav").unlink()
    write(enhanced / "a.flac", Audio(at_snr(10), 16000))
    assert len(score(*folders, metrics=FAST).files) == 3


def test_unmatched_files_are_listed_and_the_rest_scored(folders):
    clean, enhanced = folders
    (enhanced / "a.wav").unlink()
    write(enhanced / "stray.wav", Audio(CLEAN, 16000))
    report = score(clean, enhanced, metrics=FAST)
    assert len(report.files) == 2
    assert report.unmatched == (str(clean / "a.wav"), str(enhanced / "stray.wav"))


def test_two_estimates_of_one_stem_are_an_error_of_that_file(folders):
    clean, enhanced = folders
    (enhanced / "a.wav").unlink()
    for suffix in (".flac", ".ogg"):
        write(enhanced / f"a{suffix}", Audio(at_snr(10), 16000))
    report = score(clean, enhanced, metrics=FAST)
    assert len(report.files) == 2 and report.unmatched == ()
    assert report.errors == (("a.wav", "several estimates fit 'a.wav' (a.flac, a.ogg): keep one"),)


@pytest.mark.parametrize("content", [b"", b"not audio at all", b"RIFF"])
def test_a_broken_file_leaves_the_rest_scored(folders, content):
    (folders[1] / "b.wav").write_bytes(content)
    report = score(*folders, metrics=FAST)
    assert [file.name for file in report.files] == ["a.wav", "deep/c.wav"]
    ((name, message),) = report.errors
    assert name == "b.wav" and "cannot read" in message and report.exit_code == 1


def test_when_nothing_can_be_scored_the_exit_code_is_2(folders):
    for path in folders[1].rglob("*.wav"):
        path.write_bytes(b"not audio at all")
    assert score(*folders, metrics=FAST).exit_code == 2


def test_workers_find_the_same_in_the_same_order(folders):
    write(folders[1] / "b.wav", Audio(CLEAN[:100], 16000))
    seen: list[tuple[str, float, float]] = []
    report = score(*folders, metrics=FAST, workers=2, progress=lambda *event: seen.append(event))
    assert report == score(*folders, metrics=FAST)
    assert len(report.errors) == 1
    assert sorted(event[0] for event in seen) == ["a.wav", "b.wav", "deep/c.wav"]
    assert [event[1:] for event in seen] == [(1, 3), (2, 3), (3, 3)]


def die_on_b(pair: Pair) -> str:
    if pair.name == "b":
        os._exit(139)
    return pair.name


@pytest.mark.slow
def test_a_dying_worker_costs_its_own_pair_only():
    pairs = [Pair(name, Path(name), Path(name)) for name in "abc"]
    first, second, third = run_pairs(die_on_b, pairs, (), workers=2)
    assert (first, third) == ("a", "c") and "ended with code 139" in second


def test_channels_are_averaged_and_silent_ones_left_out():
    stereo = score(np.stack((CLEAN, CLEAN), 1), np.stack((at_snr(10), at_snr(30)), 1), rate=16000, metrics=FAST)
    assert stereo.mean["si_sdr"] == pytest.approx(20, abs=0.2)
    half = score(np.stack((CLEAN, 0 * CLEAN), 1), np.stack((at_snr(10), NOISE), 1), rate=16000, metrics=FAST)
    assert half.mean["si_sdr"] == pytest.approx(10, abs=0.2)
    assert half.files[0].notes == ("1 silent reference channel(s) left out",)


def test_an_estimate_at_another_rate_is_resampled_with_a_note():
    tone = np.sin(2 * np.pi * 440 * np.arange(48000) / 48000)
    report = score(Audio(tone, 48000), Audio(tone[::3], 16000), metrics=["si_sdr"])
    assert report.mean["si_sdr"] > 30
    assert report.files[0].notes == ("estimate resampled from 16000 to 48000 Hz",)


def test_tensors_have_their_channels_first():
    pair = [torch.from_numpy(np.stack(channels)) for channels in ((CLEAN, CLEAN), (at_snr(10), at_snr(10)))]
    assert score(*pair, rate=16000, metrics=FAST).mean["si_sdr"] == pytest.approx(10, abs=0.2)


def test_alignment_is_reported():
    estimate = np.concatenate((np.zeros(160), CLEAN[:-160]))
    report = score(CLEAN, estimate, rate=16000, metrics=["si_sdr"], align=True)
    assert report.files[0].scores["delay_ms"] == 10 and report.mean["si_sdr"] > 90


def test_the_json_is_strict_even_where_a_metric_has_no_value(tmp_path):
    report = score(CLEAN, 0 * CLEAN, rate=16000, metrics=FAST)
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["files"][0]["scores"]["si_sdr"] is None and saved["mean"]["si_sdr"] is None
    assert saved["mean"]["segsnr"] == pytest.approx(0, abs=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "folder").mkdir()
    report = score(CLEAN, CLEAN, rate=16000, metrics=FAST)
    for target in (tmp_path / "folder", tmp_path / "missing" / "report.json"):
        with pytest.raises(OutputError, match="cannot write"):
            report.save(target)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda clean, enhanced: (clean, enhanced / "a.wav"), "a folder stands against a single recording"),
        (lambda clean, enhanced: (clean / "deep", enhanced), "no file of .* has its name in"),
        (lambda clean, enhanced: (clean, clean.parent / "nowhere"), "a folder stands against|no such"),
        (lambda clean, enhanced: (clean / "a.wav", enhanced / "nowhere.wav"), "no such file"),
        (lambda clean, enhanced: (CLEAN, enhanced / "a.wav"), "pass rate="),
    ],
)
def test_what_cannot_be_paired_says_why(folders, arguments, message):
    with pytest.raises(InputError, match=message):
        score(*arguments(*folders), metrics=FAST)


def test_channel_counts_must_agree():
    with pytest.raises(InputError, match="1 reference and 2 estimated channels"):
        score(CLEAN, np.stack((CLEAN, CLEAN), 1), rate=16000, metrics=FAST)


def test_a_missing_package_is_said_before_any_file_is_read(monkeypatch):
    monkeypatch.setattr("harken.tasks.score.find_spec", lambda package: None)
    with pytest.raises(MissingExtraError, match="pesq"):
        score("nowhere.wav", "nowhere.wav", metrics=["covl"])
    with pytest.raises(InputError, match="no such file"):
        score("nowhere.wav", "nowhere.wav", metrics=["si_sdr"])


def test_the_command_prints_every_file_and_the_mean(folders, capsys):
    assert main(["score", "enhance", *map(str, folders), "--metrics", "si_sdr, segsnr"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[0] for row in rows[2:5]] == ["a", "b", "deep/c"] and rows[5][:3] == ["mean", "of", "3"]
    assert [round(float(row[-2])) for row in rows[2:6]] == [10, 20, 30, 20]


def test_the_command_reports_a_broken_file_and_exits_with_1(folders, capsys):
    (folders[1] / "b.wav").write_bytes(b"")
    assert main(["score", "enhance", *map(str, folders), "--metrics", "si_sdr", "--json", "-"]) == 1
    out, err = capsys.readouterr()
    assert [file["name"] for file in json.loads(out)["files"]] == ["a.wav", "deep/c.wav"]
    assert "not scored: b.wav: cannot read" in err.replace("\n", " ")


def test_the_command_writes_json_to_a_file(folders, tmp_path):
    clean, enhanced = (folder / "a.wav" for folder in folders)
    target = tmp_path / "report.json"
    assert main(["score", "enhance", str(clean), str(enhanced), "--metrics", "lsd", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["mean"]["lsd"] > 0


def test_the_command_says_in_one_line_what_cannot_be_done(folders, capsys):
    assert main(["score", "enhance", *map(str, folders), "--metrics", "psnr"]) == 2
    assert capsys.readouterr().err.startswith("error: no metric named 'psnr': choose among pesq_wb")


def test_the_help_explains_every_metric(capsys):
    assert main(["score", "enhance", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f" {name} " in out for name in METRICS) and "lower is better" in out
