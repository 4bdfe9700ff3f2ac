"""`harken brain decode`: judged, saved, applied to new trials; every refusal is one line."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("mne")
pytest.importorskip("matplotlib")

from harken.cli import main
from harken.data.brain import Trials
from harken.tasks.decode_trials import decode, draw_decoding, known_positions

NAMES = ("C3", "Cz", "C4", "Pz", "Fz")
QUICK = ["--epochs", "1", "--dim", "10", "--layers", "1", "--folds", "2", "--baselines", "means-lda", "-q"]


def trials(count=24, names=NAMES) -> Trials:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((count, 5, 48)).astype(np.float32) * 1e-5
    y = np.arange(count) % 2
    return Trials(x, y, ("left", "right"), 64.0, names, subject=np.arange(count) // (count // 2))


@pytest.fixture
def data(tmp_path):
    trials().save(tmp_path / "data.npz")
    return tmp_path / "data.npz"


def test_it_judges_saves_and_decodes_new_trials(data, tmp_path, capsys):
    files = [
        "--save",
        str(tmp_path / "decoder"),
        "--plot",
        str(tmp_path / "a.png"),
        "--report",
        str(tmp_path / "a.json"),
    ]
    assert main(["brain", "decode", str(data), *QUICK, *files]) == 0
    assert "dbconformer" in capsys.readouterr().out
    assert (tmp_path / "a.png").stat().st_size > 10_000
    report = json.loads((tmp_path / "a.json").read_text())
    assert [row["decoder"] for row in report["decoders"]] == ["dbconformer", "means-lda"]
    assert report["channels"] == list(NAMES)
    assert np.sum(report["channel_attention"], 1) == pytest.approx([1, 1], abs=1e-4)
    np.savez(tmp_path / "new.npz", x=trials().x, sfreq=64.0, unit="V", ch_names=np.array(NAMES))
    out = tmp_path / "classes.csv"
    assert main(["brain", "decode", str(tmp_path / "new.npz"), "--decoder", str(tmp_path / "decoder"),
                 "--out", str(out), "--json"]) == 0  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert told["accuracy"] is None
    rows = out.read_text().splitlines()
    assert rows[0] == "trial,class,left,right"
    assert [row.split(",")[1] for row in rows[1:]] == told["predictions"]


@pytest.mark.parametrize("alignment", ["offline", "transductive", "online"])
def test_subjects_are_aligned_by_themselves(alignment):
    given = trials()
    parameters = {"alignment": alignment, "epochs": 1, "dim": 10, "layers": 1}
    found = decode(given, parameters=parameters, split="cross-subject", baselines=())
    assert found.evaluation.scores[0].accuracy.shape == (2, 1)
    if alignment == "offline":
        assert found.decoder.aligner_.groups_.tolist() == [0, 1]


def test_the_head_is_drawn_only_where_places_are_known(tmp_path):
    assert known_positions(trials()).shape == (5, 3)
    unnamed = trials(names=("1", "2", "3", "4", "5"))
    assert known_positions(unnamed) is None
    found = decode(unnamed, parameters={"epochs": 1, "dim": 10, "layers": 1}, folds=2, baselines=())
    draw_decoding(found, tmp_path / "bars.png")
    assert (tmp_path / "bars.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--alignment", "best"], "expected alignment of"),
        (["--baselines", "svm"], "no baseline named 'svm'"),
        (["--attention", "none"], "no attention mechanism named"),
        (["--split", "cross-session"], "one session only"),
        (["--patch", "999"], "longer than a trial"),
        (["--decoder", "nowhere"], "no estimator.json"),
        (["--decoder", "nowhere", "--save", "x"], "trains nothing"),
        (["--out", "x.csv"], "classes that --decoder names"),
    ],
)
@pytest.mark.border
def test_refusals_are_one_line(data, capsys, options, message):
    assert main(["brain", "decode", str(data), *QUICK, *options]) == 2
    text = capsys.readouterr().err.strip()
    assert message in text
    assert "\n" not in text


def test_a_decoder_says_what_rate_and_channels_it_needs(data, tmp_path, capsys):
    assert main(["brain", "decode", str(data), *QUICK, "--save", str(tmp_path / "decoder")]) == 0
    capsys.readouterr()
    for options, message in ((["--sfreq", "32"], "give --sfreq 64"), (["--channels", "C3,C4"], "fitted on")):
        assert main(["brain", "decode", str(data), "--decoder", str(tmp_path / "decoder"), *options]) == 2
        assert message in capsys.readouterr().err
