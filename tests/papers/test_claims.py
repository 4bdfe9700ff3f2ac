"""Claims: what is run is recorded, whole or not at all, and read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from typer import Typer
from typer.testing import CliRunner

from harken.cli.papers import register
from harken.errors import InputError, OutputError
from harken.papers import Claim, Evidence, claims, get_paper, table
from harken.papers.claims import read_claims, run_claims


def experiment(seed, quick, progress):
    progress(0.5, "half way")
    return Evidence({"wb_pesq": 2.5 + seed}, {"wb_pesq": 2.0}, "holds", "It does.", {"steps": 1 if quick else 10})


def claim(name="phase-helps", run=experiment):
    return Claim(name, "Phase helps.", "Table 3", "3.50 against 3.30 WB-PESQ", run)


@pytest.fixture
def claiming(monkeypatch):
    """Give a paper some claims."""

    def use(*its_claims):
        paper = replace(get_paper("mala"), claims=its_claims)
        monkeypatch.setattr(claims, "get_paper", lambda slug: paper)

    return use


def test_a_record_says_all_a_reader_needs_and_is_read_back(claiming, tmp_path):
    claiming(claim())
    heard = []
    (record,) = run_claims("mala", tmp_path, seed=3, progress=lambda *what: heard.append(what))
    assert heard == [("phase-helps", 0.5, "half way")]
    assert record["measured"] == {"wb_pesq": 5.5}
    assert record["baseline"] == {"wb_pesq": 2.0}
    assert (record["statement"], record["source"], record["verdict"]) == ("Phase helps.", "Table 3", "holds")
    assert record["settings"] == {"steps": 10}
    assert record["seed"] == 3
    assert set(record["versions"]) == {"python", "torch", "harken"}
    assert {"architecture", "cpu_count", "threads"} <= set(record["machine"])
    assert [path.name for path in tmp_path.iterdir()] == ["mala.phase-helps.json"]
    assert read_claims(tmp_path) == [record]


def test_a_quick_run_never_stands_in_for_a_measurement(claiming, tmp_path):
    claiming(claim())
    run_claims("mala", tmp_path, quick=True)
    assert (tmp_path / "mala.phase-helps.quick.json").exists()
    assert read_claims(tmp_path) == []


def test_only_one_of_several_can_be_run(claiming, tmp_path):
    claiming(claim("first"), claim("second"))
    assert [record["claim"] for record in run_claims("mala", tmp_path, only="second")] == ["second"]
    with pytest.raises(InputError, match="no claim named 'secund': one of second"):
        run_claims("mala", tmp_path, only="secund")


def test_a_paper_without_claims_says_so(claiming, tmp_path):
    claiming()
    with pytest.raises(InputError, match="mala has no claims to run yet"):
        run_claims("mala", tmp_path)


def test_what_is_not_finite_is_not_recorded(claiming, tmp_path):
    claiming(claim(run=lambda *_: Evidence({"snr": math.nan}, {}, "holds", "", {})))
    with pytest.raises(InputError, match="measured snr = nan"):
        run_claims("mala", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_folder_is_found_out_before_the_experiment(claiming, tmp_path):
    def must_not_run(*_):
        pytest.fail("the experiment ran")

    claiming(claim(run=must_not_run))
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write records"):
        run_claims("mala", tmp_path / "file")


def test_a_failed_write_leaves_the_old_record_and_nothing_else(claiming, tmp_path, monkeypatch):
    claiming(claim())
    run_claims("mala", tmp_path)
    before = (tmp_path / "mala.phase-helps.json").read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(OutputError, match="No space left"):
        run_claims("mala", tmp_path, seed=9)
    assert [path.read_text() for path in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 100_000, '{"slug": "mala"}'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(InputError, match=r"broken\.json"):
        read_claims(tmp_path)


def test_verdicts_reach_the_table(claiming, tmp_path):
    claiming(claim())
    run_claims("mala", tmp_path)
    (row,) = [row for row in table.paper_rows(claims_dir=tmp_path) if row.slug == "mala"]
    assert row.verdicts == {"phase-helps": "holds"}
    assert "phase-helps: holds" in table.markdown_table(tmp_path)


def test_the_command_prints_measured_beside_baseline_and_verdict(claiming, tmp_path):
    claiming(claim())
    app = Typer()
    register(app)
    result = CliRunner().invoke(app, ["claim", "mala", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert all(part in result.output for part in ("Phase helps.", "2.5", "3.50 against 3.30", "holds", "It does."))
    assert json.loads((tmp_path / "mala.phase-helps.json").read_text())["verdict"] == "holds"
