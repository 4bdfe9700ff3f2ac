"""Building, listing and registering mechanisms by name."""

from __future__ import annotations

import pytest

import harken
from harken.attention import Attention, attention_class, register_attention
from harken.attention.softmax import SoftmaxAttention
from harken.errors import InputError


def test_a_name_nobody_has_lists_those_that_exist() -> None:
    with pytest.raises(InputError, match=r"no attention mechanism named 'sofmax': one of .*linear.*softmax"):
        harken.create_attention("sofmax", dim=8, heads=2)


def test_a_misspelt_option_is_not_swallowed() -> None:
    with pytest.raises(TypeError, match="chunksize"):
        harken.create_attention("linear", dim=8, heads=2, chunksize=4)


def test_listing_filters_by_capability() -> None:
    assert {"linear", "softmax"} <= set(harken.list_attention())
    assert "linear" in harken.list_attention(causal=True, constant_state=True)
    assert "softmax" not in harken.list_attention(constant_state=True)
    with pytest.raises(InputError, match="no such capability: fast; known: causal"):
        harken.list_attention(fast=True)


def test_every_listed_name_builds_that_mechanism() -> None:
    for name in harken.list_attention():
        assert issubclass(attention_class(name), Attention)
        assert attention_class(name).name == name


def test_names_are_taken_once() -> None:
    class Impostor(SoftmaxAttention):
        pass

    with pytest.raises(InputError, match="named 'softmax' exists already"):
        register_attention(Impostor)

    class Nameless(Attention):
        pass

    with pytest.raises(InputError, match="Nameless has no name"):
        register_attention(Nameless)
