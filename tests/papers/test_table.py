"""The table: filters, the command, and the documents that show it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner

from harken.cli.papers import register
from harken.errors import InputError
from harken.papers.claims import CLAIMS_DIR
from harken.papers.table import BEGIN, END, markdown_table, paper_rows, render_document, update_document

ROOT = Path(__file__).resolve().parents[2]


def slugs(**filters):
    return [row.slug for row in paper_rows(**filters)]


def test_filters_narrow_together():
    assert "mp-senet" in slugs(verb="enhance")
    assert "mp-senet" in slugs(text="magnitude PHASE")
    assert slugs(text="2308.08926") == ["mp-senet"]
    assert slugs(text="wavelet", verb="enhance") == []
    assert set(slugs(status="planned")).isdisjoint(slugs(status="works"))
    assert slugs(verb="create_attention")[:2] == ["wersa", "moh"]


def test_an_unknown_filter_names_the_nearest():
    with pytest.raises(InputError, match="one of enhance"):
        paper_rows(verb="enhace")
    with pytest.raises(InputError, match="one of works, partial, planned"):
        paper_rows(status="done")


def test_markdown_has_one_row_per_paper_and_no_stray_columns():
    lines = markdown_table().splitlines()
    assert len(lines) == 2 + 58
    assert {line.replace("\\|", "").count("|") for line in lines} == {8}


def test_a_document_is_changed_between_its_markers_only(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(f"before\n{BEGIN}\nstale rows\n{END}\nafter\n")
    assert update_document(document)
    text = document.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert "stale rows" not in text and "mp-senet" in text
    assert not update_document(document)


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}{BEGIN}", f"{BEGIN}{END}{BEGIN}{END}"])
def test_a_document_without_proper_markers_is_left_alone(tmp_path, text):
    document = tmp_path / "page.md"
    document.write_text(text)
    with pytest.raises(InputError, match=r"page\.md: expected one"):
        update_document(document)
    assert document.read_text() == text


@pytest.mark.parametrize("name", ["README.md", "docs/papers.md"])
def test_the_committed_documents_are_up_to_date(name):
    document = ROOT / name
    if not document.exists() or BEGIN not in document.read_text():
        pytest.skip(f"{name} does not show the table")
    text = document.read_text()
    assert render_document(text, markdown_table(ROOT / CLAIMS_DIR)) == text, f"python -m harken.papers.table {name}"


def test_the_command_lists_and_gives_json():
    app = Typer()
    register(app)
    shown = CliRunner().invoke(app, ["papers", "mp-senet"])
    assert shown.exit_code == 0
    assert "harken enhance" in shown.output
    rows = json.loads(CliRunner().invoke(app, ["papers", "--json"]).output)
    assert len(rows) == 58
    assert {"slug", "arxiv", "licence", "status", "reached_by", "verdicts"} <= set(rows[0])
