"""The authors' tensors: harmonics, losses, encoder and one iterative projection, one by one."""

from __future__ import annotations

from pathlib import Path

from harken.papers.parity import check_parity

CASE = Path(__file__).parents[1] / "parity/hrtfformer"


def test_the_public_check_passes_for_every_output():
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert set(report.not_compared) == {"enc_in", "field", "iter_in"}
    assert len(report.tensors) == 14
