"""Indicators of attention maps on maps whose numbers are known."""

from __future__ import annotations

import math

import pytest
import torch

from harken.lens.indicators import attention_indicators


def test_a_sink_and_a_diagonal_are_told_apart() -> None:
    sink = torch.zeros(5, 5)
    sink[:, 0] = 1.0
    found = attention_indicators(torch.stack((sink, torch.eye(5)))[None])
    assert found.sink.tolist() == [[1.0, pytest.approx(0.2)]]
    assert found.local_focus[0, 1].tolist() == [1.0, 0.0, 0.0, 0.0]
    assert found.entropy.abs().max() == 0.0
    assert found.concentration.tolist() == [[pytest.approx(math.sqrt(5))] * 2]
    # the two heads differ at 4 + 4 of the 15 pairs, each time by 1
    assert found.head_diversity.item() == pytest.approx(8 * math.sqrt(0.5) / 15)


def test_even_attention_has_the_largest_entropy() -> None:
    even = torch.ones(1, 1, 3, 3).tril() / torch.tensor([1.0, 2.0, 3.0])[:, None]
    found = attention_indicators(even)
    assert found.entropy.item() == pytest.approx(math.log(2) + math.log(3), abs=1e-6)
    assert found.head_diversity.item() == 0.0  # one head alone
    assert found.local_focus.shape == (1, 1, 4) and found.local_focus[..., 3].item() == 0.0  # too short a map
