"""``harken demo`` runs on what ships, shows scores, and says where its files are."""

from __future__ import annotations

import pytest

from harken.cli import main
from harken.data.audio import read


def test_the_demo_writes_what_it_names(identity, tmp_path, capsys):
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    out = tmp_path / "demo"
    assert main(["demo", "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    for name in ("noisy.wav", "enhanced.wav", "clean.wav"):
        assert read(out / name).rate == 16000
        assert str(out / name) in printed
    assert "PESQ-WB" in printed


def test_the_demo_names_what_is_not_installed(identity, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(__import__("sys").modules, "pesq", None)
    assert main(["demo", "-o", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "pip install 'harken[plot]'" in printed
    assert "pip install 'harken[score]'" in printed


def test_a_file_in_place_of_the_folder_is_told(identity, tmp_path, capsys):
    (tmp_path / "x").write_text("")
    assert main(["demo", "-o", str(tmp_path / "x" / "y")]) == 2
    assert "cannot make the folder" in capsys.readouterr().err
