"""The examples of docs/swap-attention.md do what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path


def test_the_examples_of_swap_attention_run() -> None:
    page = Path(__file__).parents[2] / "docs" / "swap-attention.md"
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    results = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert results.attempted > 10 and results.failed == 0
