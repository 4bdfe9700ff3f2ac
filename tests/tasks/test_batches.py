"""Batches that share the processors, stop and go on."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from harken.cli import app
from harken.data.audio import Audio, write
from harken.errors import InputError, OutputError
from harken.tasks.extend_files import extend_files


@pytest.fixture
def folder(tmp_path):
    """Three recordings, the second of them broken."""
    inputs = tmp_path / "in"
    inputs.mkdir()
    for name in ("a.wav", "c.wav"):
        write(inputs / name, Audio(np.random.default_rng(0).normal(0, 0.1, (800, 1)), 8000))
    (inputs / "b.wav").write_bytes(b"RIFF, but no more")
    return inputs


def lines(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def extended(folder, **options):
    return extend_files(folder, folder.parent / "out", model="copy-up", **options)


def test_workers_give_what_one_process_gives(folder):
    one, two = extended(folder), extended(folder, workers=2)
    assert [file.input for file in two.files] == [file.input for file in one.files]
    assert [file.error is None for file in two.files] == [True, False, True]
    assert [file.seconds for file in two.done] == [0.1, 0.1]


def test_a_manifest_passes_over_what_is_done_and_tries_again_what_failed(folder):
    manifest = folder.parent / "done.jsonl"
    first = extended(folder, manifest=manifest)
    again = extended(folder, manifest=manifest)
    assert (first.done_before, again.done_before) == (0, 2)
    assert [file.input for file in again.files] == [str(folder / "b.wav")]
    assert [line["error"] is None for line in lines(manifest)] == [True, False, True, False]


@pytest.mark.parametrize("change", ["input", "output", "settings"])
def test_what_changed_is_done_again(folder, change):
    manifest = folder.parent / "done.jsonl"
    extended(folder, manifest=manifest)
    options = {}
    if change == "input":
        write(folder / "a.wav", Audio(np.zeros((900, 1)), 8000))
    elif change == "output":
        (folder.parent / "out" / "a.wav").unlink()
    else:
        options = {"to": 48000}
    again = extended(folder, manifest=manifest, **options)
    assert again.done_before == (0 if change == "settings" else 1)
    assert again.files[0].error is None


def test_a_line_that_a_kill_cut_off_is_forgotten(folder):
    manifest = folder.parent / "done.jsonl"
    extended(folder, manifest=manifest)
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-40])
    assert extended(folder, manifest=manifest).done_before == 1
    assert len(lines(manifest)) == 4


@pytest.mark.parametrize("text", ["hello", "hello\n", '{"a": 1}\n', "[]\n", "\x00" * 100])
def test_a_file_that_is_no_manifest_is_left_alone(folder, text):
    other = folder.parent / "notes.jsonl"
    other.write_text(text)
    with pytest.raises(InputError, match="is no record of a batch"):
        extended(folder, manifest=other)
    assert other.read_text() == text


def test_a_manifest_has_its_ending_and_its_folder(folder):
    with pytest.raises(InputError, match=r"ends in \.jsonl"):
        extended(folder, manifest=folder / "a.wav")
    with pytest.raises(OutputError, match="No such file"):
        extended(folder, manifest=folder / "none" / "done.jsonl")


def test_the_command_tells_what_was_done_before(folder):
    arguments = ["extend", str(folder), "-o", str(folder.parent / "out"), "--model", "copy-up"]
    arguments += ["--manifest", str(folder.parent / "done.jsonl"), "--workers", "2"]
    first, again = (CliRunner().invoke(app, arguments) for _ in range(2))
    assert (first.exit_code, again.exit_code) == (1, 2)
    assert "done before, by the manifest: 2" in again.output
