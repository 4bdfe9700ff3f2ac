"""The mechanism that docs/add-a-mechanism.md shows is a real one: it passes the battery as it stands on the page."""

from __future__ import annotations

import importlib.util
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

import harken
from harken import attention
from tests.attention.kit import Check, Subject, battery

PAGE = Path(__file__).parents[2] / "docs" / "add-a-mechanism.md"


def _load() -> ModuleType:
    """The page's first block of code, imported as a user's file would be, and then forgotten by the registry."""
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert code is not None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "nearest.py"
        file.write_text(code[1], encoding="utf-8")
        spec = importlib.util.spec_from_file_location("nearest", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["nearest"] = module
        spec.loader.exec_module(module)
    attention._MECHANISMS.pop("nearest")
    return module


nearest = _load()


@pytest.mark.parametrize(("check", "subject"), battery(nearest.NearestAttention))
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


def test_it_is_built_by_name_once_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_MECHANISMS", dict(attention._MECHANISMS))
    attention.register_attention(nearest.NearestAttention)
    attention.register_attention(nearest.NearestAttention)  # as a notebook does
    assert "nearest" in harken.list_attention(cross=False)
    layer = harken.create_attention("nearest", dim=8, heads=2, window=2)
    weights = layer.weights(torch.randn(1, 5, 8))
    assert (weights[0, 0] > 0).tolist() == [[abs(t - s) < 2 for s in range(5)] for t in range(5)]


def test_a_broken_mechanism_does_not_pass() -> None:
    """The battery is worth something only if it fails on what is wrong."""

    class Peeking(nearest.NearestAttention):
        def mix_weights(self, q, k, mask):  # type: ignore[no-untyped-def]
            return (q @ k.transpose(-1, -2)).softmax(-1)

        def mix_cost(self, batch, time):  # type: ignore[no-untyped-def]
            return attention.Cost(flops=0, bytes=0)

    def fails(parameter) -> bool:  # type: ignore[no-untyped-def]
        check, subject = parameter.values
        try:
            check(subject)
        except AssertionError:
            return True
        return False

    causal = [p for p in battery(Peeking) if p.values[1].causal and not p.marks]
    assert {p.values[0].__name__ for p in causal if fails(p)} == {
        "the_future_does_not_exist",
        "padding_changes_nothing_that_is_real",
        "gaps_may_lie_anywhere",
        "the_matrix_is_what_it_says",
        "the_cost_is_what_a_counter_counts",
    }
