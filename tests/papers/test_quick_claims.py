"""Every claim's experiment runs from end to end in its smoke test, and comes to a verdict."""

from __future__ import annotations

import pytest

from harken.papers import list_papers
from harken.papers.claims import run_claims

CLAIMS = [(paper.slug, claim.name) for paper in list_papers() for claim in paper.claims]


@pytest.mark.parametrize(("slug", "name"), CLAIMS)
def test_its_smoke_test_comes_to_a_verdict(slug, name, tmp_path):
    heard: list[float] = []
    (record,) = run_claims(slug, tmp_path, quick=True, only=name, progress=lambda _, done, note: heard.append(done))
    assert record["measured"]
    assert record["summary"]
    assert heard
    assert max(heard) <= 1 + 1e-6
