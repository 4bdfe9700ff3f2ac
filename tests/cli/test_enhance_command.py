"""The command line: exit codes, one-line errors, pipes, reports."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import soundfile

from harken import __version__
from harken.cli import main
from harken.data.audio import Audio, read, write


def test_one_file(identity, noisy, capsys):
    assert main(["enhance", str(noisy)]) == 0
    assert read(noisy.with_name("noisy.enhanced.wav")).frames == 4000
    assert str(noisy.with_name("noisy.enhanced.wav")) in capsys.readouterr().out.splitlines()[-1]


def test_quiet_says_nothing(identity, noisy, capsys):
    assert main(["enhance", str(noisy), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_an_error_is_one_line_and_exit_2(identity, tmp_path, capsys):
    assert main(["enhance", str(tmp_path / "nope.wav")]) == 2
    assert capsys.readouterr() == ("", f"error: cannot read '{tmp_path / 'nope.wav'}': no such file\n")


def test_debug_adds_the_traceback(identity, tmp_path, capsys):
    assert main(["enhance", str(tmp_path / "nope.wav"), "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_unforeseen_error_is_one_line_too(identity, noisy, capsys, monkeypatch):
    monkeypatch.setattr(identity, "enhance", lambda *a, **k: 1 / 0)
    assert main(["enhance", str(noisy)]) == 70
    error = capsys.readouterr().err
    assert "division by zero" in error
    assert error.count("\n") == 1


def test_a_batch_with_broken_files_does_the_rest_and_exits_1(identity, noisy, tmp_path, capsys):
    (tmp_path / "bad.wav").write_bytes(b"x" * 100)
    out = tmp_path / "out"
    assert main(["enhance", str(noisy), str(tmp_path / "bad.wav"), str(tmp_path / "no.wav"), "-o", str(out)]) == 1
    assert [path.name for path in out.iterdir()] == ["noisy.wav"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "bad.wav" in lines[0]
    assert "no.wav" in lines[1]
    assert lines[2] == "2 of 3 inputs failed"


def test_a_batch_where_all_fails_exits_2(identity, tmp_path):
    assert main(["enhance", str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]) == 2


def test_the_report_goes_to_stdout_or_a_file(identity, noisy, tmp_path, capsys):
    assert main(["enhance", str(noisy), "--report", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["input"] == str(noisy)
    assert main(["enhance", str(noisy), "--report", str(tmp_path / "r.json")]) == 0
    assert json.loads((tmp_path / "r.json").read_text())["model"] == "mp-senet"
    assert main(["enhance", str(noisy), "--report", "table"]) == 2
    assert main(["enhance", str(noisy), "-o", "-", "--report", "json"]) == 2


def test_a_report_that_cannot_be_written_is_told_before_the_work(identity, noisy, tmp_path):
    assert main(["enhance", str(noisy), "--report", str(tmp_path / "missing" / "r.json")]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["noisy.wav"]


def test_a_name_too_long_is_one_line_and_exit_2(identity, noisy, capsys):
    assert main(["enhance", "a" * 5000]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_pipe_carries_audio_and_nothing_else(identity, noisy, monkeypatch, capsys):
    source, sink = io.TextIOWrapper(io.BytesIO(noisy.read_bytes())), io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr("sys.stdin", source)
    monkeypatch.setattr("sys.stdout", sink)
    assert main(["enhance", "-"]) == 0
    piped = soundfile.SoundFile(io.BytesIO(sink.buffer.getvalue()))
    assert (piped.samplerate, piped.frames, piped.format) == (16000, 4000, "WAV")
    assert "seconds" in capsys.readouterr().err  # the summary stays out of the way


def test_an_output_over_its_input_needs_permission(identity, noisy, capsys):
    assert main(["enhance", str(noisy), "-o", str(noisy)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["enhance", str(noisy), "-o", str(noisy), "--overwrite"]) == 0


def test_ctrl_c_is_130_and_leaves_nothing(identity, noisy, monkeypatch):
    def interrupted(*a, **k):
        raise KeyboardInterrupt

    monkeypatch.setattr(identity, "enhance", interrupted)
    assert main(["enhance", str(noisy)]) == 130
    assert [path.name for path in noisy.parent.iterdir()] == ["noisy.wav"]


def test_a_reader_that_leaves_early_is_no_traceback(identity, noisy, monkeypatch, capsys):
    def closed(*a, **k):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("shutil.copyfileobj", closed)
    assert main(["enhance", str(noisy), "-o", "-"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_version_and_usage(capsys):
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out
    assert main(["enhance"]) == 2
    assert main(["enhance", "x.wav", "--no-such-option"]) == 2


def test_help_tells_the_defaults_that_are_not_values(capsys):
    assert main(["enhance", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "those that ship" in shown
    assert "*.enhanced.*" in shown


def test_help_does_not_import_torch():
    code = "import sys; from harken.cli import main; main(['enhance', '--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


SLOW_MODEL = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
from harken import models
from harken.cli import main

class Slow(torch.nn.Module):
    sample_rate = 16000
    def enhance(self, waveform, *, level=None):
        print("working", flush=True)
        time.sleep(600)
        return waveform

models.load = lambda *a, **k: Slow()
sys.exit(main(["enhance", sys.argv[1]]))
"""


@pytest.mark.skipif(os.name != "posix", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_a_file_leaves_no_partial_output(tmp_path, number, code):
    write(tmp_path / "a.wav", Audio(np.random.default_rng(0).normal(0, 0.1, 16000), 16000))
    process = subprocess.Popen([sys.executable, "-c", SLOW_MODEL, str(tmp_path / "a.wav")], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    process.send_signal(number)
    assert process.wait(timeout=60) == code
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
