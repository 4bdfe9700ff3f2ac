"""The page of claims says all that the records say, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harken.papers.claims import CLAIMS_DIR
from harken.papers.claims_page import claims_page, update_page

ROOT = Path(__file__).resolve().parents[2]
RECORD = {
    "slug": "mala",
    "claim": "magnitude",
    "statement": "Magnitude | matters.",
    "source": "Table 3",
    "paper_value": "1.23 against 0.98",
    "measured": {"accuracy_mala": 0.75},
    "baseline": {"accuracy_linear": 0.5},
    "verdict": "holds",
    "summary": "It was better.",
    "settings": {"steps": 10, "rule": "better is better"},
    "seed": 3,
    "seconds": 90.0,
    "date": "2026-01-02",
    "versions": {"torch": "2.0"},
    "machine": {"architecture": "x86_64", "threads": 1},
}


@pytest.fixture
def records(tmp_path):
    def write(**changes):
        record = {**RECORD, **changes}
        (tmp_path / f"{record['slug']}.{record['claim']}.json").write_text(json.dumps(record))
        return tmp_path

    return write


def test_a_claim_is_shown_with_all_a_reader_needs(records):
    page = claims_page(records())
    for part in (
        "Magnitude | matters. (Table 3)",
        "**Holds.** It was better.",
        "The paper: 1.23 against 0.98.",
        "| accuracy mala | 0.75 |  |",
        "| accuracy linear |  | 0.5 |",
        "Rule: better is better",
        '"steps": 10',
        "harken claim mala --only magnitude --seed 3",
        "2026-01-02: 1.5 minutes; 1 thread(s) of x86_64; torch 2.0.",
    ):
        assert part in page
    assert "1 claims: 1 holds, 0 holds in direction" in page
    assert "[Magnitude \\| matters.](#mala-magnitude)" in page


def test_papers_stand_in_the_order_of_the_table(records):
    records(slug="mp-senet")
    page = claims_page(records(slug="wersa"))
    assert page.index("## wersa") < page.index("## mp-senet")


def test_without_records_there_is_still_a_page(tmp_path):
    assert "0 claims" in claims_page(tmp_path)


def test_a_page_is_written_only_when_it_changes(records, tmp_path):
    folder = records()
    assert update_page(tmp_path / "claims.md", folder)
    assert not update_page(tmp_path / "claims.md", folder)
    records(verdict="fails here")
    assert update_page(tmp_path / "claims.md", folder)


def test_the_committed_page_is_up_to_date():
    page = claims_page(ROOT / CLAIMS_DIR)
    assert (ROOT / "docs/claims.md").read_text(encoding="utf-8") == page, (
        "python -m harken.papers.claims_page docs/claims.md"
    )
