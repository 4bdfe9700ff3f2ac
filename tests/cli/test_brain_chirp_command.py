"""``harken brain chirp``: find, judge and train, with figures, JSON and one-line errors."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")

from harken.cli import main
from harken.data.chirps import Chirps, chirp_signals
from harken.models import weights_folder

bundled = pytest.mark.skipif(weights_folder("chirp-localization") is None, reason="no weights ship")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """One channel with a chirp from 20 to 30 s and one without."""
    chirps = Chirps(np.array([20.0]), np.array([12.0]), np.array([30.0]), np.array([10.0]), np.array([False]))
    signals = [chirp_signals(chirps, 200.0, 60.0, snr=snr, seed=1)[0] for snr in (8.0, -60.0)]
    path = tmp_path_factory.mktemp("chirp") / "recording.npz"
    np.savez(path, data=np.stack(signals), sfreq=200.0, ch_names=np.array(["T3", "T5"]))
    return path


@bundled
@pytest.mark.parametrize("method", ["network", "ridge"])
def test_a_chirp_is_found_and_drawn(method, recording, tmp_path, capsys):
    command = ["brain", "chirp", "find", str(recording), "--method", method, "--plot", str(tmp_path / "found.png")]
    assert main([*command, "--report", str(tmp_path / "found.json"), "--quiet"]) == 0
    assert "T3: " in capsys.readouterr().out
    (chirp,) = json.loads((tmp_path / "found.json").read_text())["chirps"]
    assert chirp["channel"] == "T3"
    assert chirp["start_time"] == pytest.approx(20, abs=1.5)
    assert chirp["start_frequency"] == pytest.approx(12, abs=3)
    assert (tmp_path / "found.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_trained_and_judged_beside_the_ridge(tmp_path, capsys):
    assert main(["brain", "chirp", "train", "--out", str(tmp_path / "w"), "--pictures", "64", "--quiet"]) == 0
    capsys.readouterr()
    command = ["brain", "chirp", "evaluate", "--synthetic", "30", "--weights", str(tmp_path / "w"), "--json"]
    assert main([*command, "--whole-bins"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["pictures"] == 30
    assert set(found["pearson"]) == {"network", "ridge", "network, refined", "ridge, refined"}
    assert found["pearson"]["ridge"]["start_frequency"] > 0.7
    again = ["brain", "chirp", "train", "--init", str(tmp_path / "w"), "--out", str(tmp_path / "v"), "--pictures", "32"]
    assert main([*again, "--quiet"]) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--method", "magic"], "network or ridge"),
        (["--max-frequency", "150"], "holds frequencies up to 100 Hz"),
        (["--weights", "nowhere"], "nowhere"),
        (["--channels", "Cz"], "no channel named 'Cz'"),
        (["--window", "1"], "duration above 4 s"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(change, message, recording, capsys):
    command = ["brain", "chirp", "find", str(recording), "--method", "ridge", "--quiet"]
    if change[0] == "--weights":
        command = command[:4]
    assert main([*command, *change]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert message in said
    assert "Traceback" not in said
