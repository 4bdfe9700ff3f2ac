"""The examples of the page on Hugging Face models do what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest


def test_the_examples_of_the_page_run() -> None:
    pytest.importorskip("peft")
    page = Path(__file__).parents[2] / "docs" / "swap-huggingface.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert results.attempted >= 30 and results.failed == 0
