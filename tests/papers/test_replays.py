"""Every case in tests/parity through its paper's replay, within its own tolerance."""

from __future__ import annotations

from pathlib import Path

import pytest

from harken.papers.parity import check_parity, find_cases


@pytest.mark.parametrize("case", find_cases(Path(__file__).parents[1] / "parity"), ids=lambda case: case.name)
def test_equals_the_reference(case: Path) -> None:
    report = check_parity(case)
    assert report.passed, [
        (tensor.name, tensor.error, tensor.problem) for tensor in report.tensors if not tensor.passed
    ]
