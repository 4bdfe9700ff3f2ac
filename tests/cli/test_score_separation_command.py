from __future__ import annotations

import json

import numpy as np
import pytest

from harken.cli import main
from harken.data.audio import Audio, write

ONE, TWO = np.random.default_rng(0).standard_normal((2, 7000)) * 0.1


@pytest.fixture
def files(tmp_path):
    for folder, signals in {"clean": (ONE, TWO), "made": (ONE + 0.3 * TWO, TWO)}.items():
        (tmp_path / folder).mkdir()
        for name, samples in zip("ab", signals, strict=True):
            write(tmp_path / folder / f"{name}.wav", Audio(samples, 16000))
    return tmp_path


def test_files_in_one_order(files, capsys):
    names = [str(files / name) for name in ("clean/a.wav", "clean/b.wav", "made/a.wav", "made/b.wav")]
    assert main(["score", "separation", *names, "--metrics", "ps,sir", "--no-uncertainty"]) == 0
    printed = capsys.readouterr().out
    assert "a.wav" in printed and "SIR" in printed and "mean" in printed


def test_folders_as_json(files, capsys):
    folders = [str(files / "clean"), str(files / "made")]
    assert main(["score", "separation", *folders, "--metrics", "si_sdr,sir", "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [source["name"] for source in report["sources"]] == ["a.wav", "b.wav"]
    assert round(report["sources"][0]["scores"]["sir"]) in range(9, 13)


def test_an_odd_number_of_files_is_one_line(files, capsys):
    names = [str(files / name) for name in ("clean/a.wav", "clean/b.wav", "made/a.wav")]
    assert main(["score", "separation", *names]) == 2
    assert capsys.readouterr().err.startswith("error: 3 files cannot be references and as many estimates")


def test_a_missing_file_is_one_line(files, capsys):
    assert main(["score", "separation", str(files / "x.wav"), str(files / "clean/a.wav")]) == 2
    assert "at least 2 sources" in capsys.readouterr().err
    names = [str(files / name) for name in ("clean/a.wav", "x.wav", "made/a.wav", "made/b.wav")]
    assert main(["score", "separation", *names]) == 2
    assert "x.wav': no such file" in capsys.readouterr().err
