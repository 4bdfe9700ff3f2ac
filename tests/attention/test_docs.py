"""The examples of the pages on attention, writing and seeing do what the pages say."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "examples"), [("swap-attention.md", 11), ("write.md", 6), ("see.md", 5)])
def test_the_examples_of_a_page_run(name: str, examples: int) -> None:
    page = Path(__file__).parents[2] / "docs" / name
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert results.attempted >= examples and results.failed == 0
