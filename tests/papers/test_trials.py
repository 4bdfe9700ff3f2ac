"""Trials: paired by their seeds, and no difference where there is only noise."""

from __future__ import annotations

import pytest
import torch

from harken.data.attention_tasks import make_task
from harken.models.write.decoder import Decoder, DecoderConfig
from harken.papers._trials import Trials, run_trials
from harken.tasks.small_training import Budget


def trials(quality="bits_per_byte", **values):
    return Trials(quality, values=values)


def test_fewer_bits_are_better():
    assert trials(a=[2.0, 2.1], b=[2.5, 2.6]).finding("a", than="b") == "better"


def test_more_accuracy_is_better():
    assert trials("accuracy", a=[0.5, 0.6], b=[0.9, 0.9]).finding("a", than="b") == "worse"


def test_a_difference_within_the_margin_is_unclear():
    assert trials(a=[2.0, 2.0], b=[2.01, 2.01]).finding("a", than="b", margin=0.02) == "unclear"


def test_a_difference_that_varies_more_than_it_is_large_is_unclear():
    assert trials(a=[2.0, 2.6, 2.0], b=[2.2, 2.2, 2.3]).finding("a", than="b") == "unclear"


def test_what_the_seeds_share_does_not_hide_a_difference():
    assert trials(a=[1.0, 2.0, 3.0], b=[1.1, 2.1, 3.1]).finding("a", than="b") == "better"


def test_one_seed_has_no_spread():
    assert trials(a=[2.0]).as_measured() == {"bits_per_byte_a": 2.0, "bits_per_byte_a_spread": 0.0}


@pytest.fixture
def build():
    return lambda: Decoder(DecoderConfig(vocabulary=33, dim=8, layers=1, heads=2))


def test_equal_candidates_reach_equal_values(build):
    found = run_trials({"a": build, "b": build}, make_task("copy", 8), Budget(3, 4), [0, 1], lambda *_: None)
    assert found.values["a"] == found.values["b"]
    assert found.values["a"][0] != found.values["a"][1] or found.parameters["a"] == found.parameters["b"]


def test_a_loss_of_its_own_is_used(build):
    calls = []

    def loss(model, inputs, targets):
        calls.append(1)
        return torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)

    task = make_task("copy", 8)
    run_trials({"a": build, "b": build}, task, Budget(3, 4), [0], lambda *_: None, losses={"b": loss})
    assert len(calls) == 3
