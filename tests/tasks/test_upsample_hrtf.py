"""Upsampling HRTFs: rate, level and times stay, every method answers, and broken files are told in one line."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harken.cli import main
from harken.data.hrtf import cipic_directions, equiangular_grid, read_hrirs, write_sofa
from harken.errors import CheckpointError, InputError, OutputError
from harken.models.enhance.hrtfformer import HRTFformer, HRTFformerConfig
from harken.score.hrtf import time_difference
from harken.tasks.upsample_hrtf import Run, score_hrtfs, upsample_hrtf
from harken.tasks.upsample_hrtf_files import read_grid, upsample_hrtf_files
from tests.listeners import GRID, TAPS, listener

pytest.importorskip("sofar")
FINER = equiangular_grid(45.0, lowest=-45.0)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A folder of listeners at 44.1 kHz."""
    folder = tmp_path_factory.mktemp("others")
    for seed in range(6):
        write_sofa(folder / f"{seed}.sofa", listener(seed, rate=44100, taps=64))
    return folder


@pytest.fixture
def few(tmp_path):
    """A listener in twelve directions."""
    one = listener(9)
    write_sofa(tmp_path / "few.sofa", one.pick(np.arange(0, len(GRID), 5)))
    return tmp_path / "few.sofa"


def test_rate_level_and_times_stay():
    one = listener(9)
    made = upsample_hrtf(one, method="harmonics-ridge", directions=FINER).hrirs
    assert (made.rate, made.responses.shape) == (one.rate, (len(FINER), 2, 2 * TAPS))
    wanted = listener(9, FINER)
    scores = score_hrtfs(made, wanted)
    assert scores["directions"] == len(FINER)
    assert scores["itd_error_us"] < 40
    assert scores["ild_error_db"] < 1
    left = np.argmin(np.abs(FINER - [90, 0]).sum(1))
    assert time_difference(made.responses, made.rate)[left] > 4e-4


@pytest.mark.parametrize(
    "method", ["nearest", "harmonics", "training-mean", "best-match", "mean-harmonics", "kernel-ridge", "kriging"]
)
def test_every_method_answers_and_is_scored(method, others):
    training = None if method in ("nearest", "harmonics") else others
    one = listener(9, rate=44100, taps=64)
    made = upsample_hrtf(one, method=method, training=training, directions=FINER, points=9, truth=one)
    assert made.measured == 9 and len(made.hrirs) == len(FINER)
    assert set(made.scores) == {"lsd_db", "ild_error_db", "itd_error_us", "neighbour_dissimilarity_db2"}
    assert made.scores["lsd_db"] < 12 and made.scores["itd_error_us"] < 80
    assert "sphere" in made.delay
    json.dumps(made.as_dict())


def test_another_measurement_chain_is_taken_off_and_put_back(others):
    one = listener(9, rate=44100, taps=64)
    run = Run.load("kriging", training=others)
    louder = replace(one, responses=100 * one.responses)
    plain, made = run(one, directions=FINER, points=20), run(louder, directions=FINER, points=20)
    assert plain.offset_db == 0 and made.offset_db == pytest.approx(40, abs=3)
    assert "taken off before" in made.notes[0]
    ratio = np.abs(made.hrirs.responses).max() / np.abs(plain.hrirs.responses).max()
    assert 20 * np.log10(ratio) == pytest.approx(40, abs=3)


def test_the_network_takes_any_rate_and_its_own_grid():
    model = HRTFformer(replace(HRTFformerConfig.small(), directions=len(GRID))).eval()
    model.grid.copy_(model.grid.new_tensor(GRID))
    run = Run("hrtfformer", model.config.frequencies.numpy(), model, None)
    made = run(listener(3, rate=32000, taps=48), points=5)
    assert (len(made.hrirs), made.hrirs.rate) == (len(GRID), 32000)
    assert np.isfinite(made.hrirs.responses).all()


def test_one_direction_is_enough_for_an_answer():
    made = upsample_hrtf(listener(0), method="nearest", points=1, directions=FINER)
    assert np.isfinite(made.hrirs.responses).all()


def test_what_cannot_be_done_is_said():
    one = listener(0)
    for options, message in (
        ({"method": "magic"}, "no method 'magic'"),
        ({"method": "nearest"}, "knows no grid"),
        ({"method": "nearest", "points": 999, "directions": FINER}, "999 of them"),
        ({"method": "nearest", "training": "x"}, "learns from no one"),
        ({"method": "kernel-ridge"}, "--training"),
    ):
        with pytest.raises(InputError, match=message):
            upsample_hrtf(one, **options)
    with pytest.raises(CheckpointError):
        upsample_hrtf(one, weights="absent/folder/here")


def test_grids_as_a_user_names_them(few):
    assert read_grid("model") is None
    assert len(read_grid("30")) == 62
    assert read_grid("-90:10,45:0").tolist() == [[270.0, 10.0], [45.0, 0.0]]
    assert len(read_grid(str(few))) == len(read_hrirs(few))
    for bad in ("word", "0:100", "1:2:3", "nan:0"):
        with pytest.raises(InputError):
            read_grid(bad)


def test_files_report_and_picture(few, tmp_path, capsys):
    out, report = tmp_path / "all.sofa", tmp_path / "report.json"
    command = ["hrtf", "upsample", str(few), "-o", str(out), "--method", "harmonics-ridge", "--grid", "45"]
    assert main([*command, "--plot", "--report", str(report)]) == 0
    (file,) = json.loads(report.read_text())["files"]
    assert (file["measured"], file["directions"], file["error"]) == (13, len(equiangular_grid(45.0)), None)
    assert (tmp_path / "all.sofa.png").stat().st_size > 1000
    assert "Computed, not measured" in open_comment(out)
    capsys.readouterr()
    assert main(["hrtf", "score", str(out), str(out), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["lsd_db"] == 0
    assert main(["hrtf", "plot", str(out), "-o", str(tmp_path / "again.png"), "--truth", str(few)]) == 0


def open_comment(path) -> str:
    import sofar

    return sofar.read_sofa(str(path), verify=False, verbose=False).GLOBAL_Comment


def test_a_folder_goes_on_after_a_broken_file(few, tmp_path, capsys):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "good.sofa").write_bytes(few.read_bytes())
    (folder / "cut.sofa").write_bytes(few.read_bytes()[:3000])
    command = ["hrtf", "upsample", str(folder), "-o", str(out), "--method", "nearest", "--grid", "0:0,90:0"]
    assert main(command) == 1
    assert [path.name for path in out.iterdir()] == ["good.sofa"]
    assert "cut.sofa" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--truth", "same"], "--points 19"),
        (["--grid", "word"], "no grid"),
        (["--method", "magic"], "no method"),
        (["-o", "all.wav"], "end in .sofa"),
    ],
)
def test_mistakes_exit_with_two_and_one_line(few, options, message, capsys):
    assert main(["hrtf", "upsample", str(few), "--method", "nearest", *options]) == 2
    said = capsys.readouterr().err.strip()
    assert message in said and "\n" not in said


def test_an_input_is_not_overwritten(few):
    with pytest.raises(OutputError, match="--overwrite"):
        upsample_hrtf_files([few], few, method="nearest", grid="0:0")
    before = few.read_bytes()
    assert upsample_hrtf_files([few], few, method="nearest", grid="0:0", overwrite=True).files[0].error is None
    assert few.read_bytes() != before


def test_sets_without_a_common_direction_cannot_be_compared():
    with pytest.raises(InputError, match="no direction in common"):
        score_hrtfs(listener(0, np.array([[0.0, 0.0]])), listener(0, np.array([[90.0, 0.0]])))


def test_the_small_presets_grid_is_cipics():
    assert HRTFformerConfig.small().directions == len(cipic_directions())
