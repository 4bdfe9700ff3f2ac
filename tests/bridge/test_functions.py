"""Mechanisms as attention implementations of transformers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import harken
from harken.bridge import functions, register
from harken.bridge.functions import FUNCTIONS
from harken.errors import CapabilityError, InputError, MissingExtraError
from tests.bridge import hosts

NAMES = list(FUNCTIONS)
SMALL = {"span": "span:span=window,span_size=3", "shifted": "shifted:group_size=4"}


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register()
    register(*SMALL.values())


@pytest.mark.parametrize("family", hosts.FAMILIES)
def test_softmax_is_the_models_own(family: str) -> None:
    model = hosts.FAMILIES[family]()
    inputs, real = hosts.sample(family)
    before = hosts.logits(model, inputs)
    model.set_attn_implementation("harken-softmax")
    assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name: str, family: str) -> None:
    name = SMALL.get(name, name)
    if name.startswith("span") and family == "llama":
        name = "span:span=full"  # spans count padding: pad on the right
        register(name)
    model = hosts.FAMILIES[family](attn_implementation=f"harken-{name}") if family == "llama" else hosts.bert()
    model.set_attn_implementation(f"harken-{name}")
    inputs, real = hosts.sample(family)
    alone = {key: value[1:, real[1]] for key, value in inputs.items()}
    whole = hosts.logits(model, inputs)
    assert whole.isfinite().all()
    assert torch.allclose(whole[1, real[1]], hosts.logits(model, alone)[0], atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_later_tokens_do_not_reach_earlier_ones(name: str) -> None:
    model = hosts.llama()
    model.set_attn_implementation(f"harken-{name}")
    tokens = torch.randint(3, hosts.VOCABULARY, (1, 10))
    changed = tokens.clone()
    changed[:, 6:] = 2
    one, other = (hosts.logits(model, {"input_ids": ids}) for ids in (tokens, changed))
    assert torch.allclose(one[:, :6], other[:, :6], atol=1e-5)
    assert not torch.allclose(one[:, 6:], other[:, 6:], atol=1e-3)


@pytest.mark.parametrize("name", [name for name, kind in FUNCTIONS.items() if not kind.needs_queries])
def test_generation_with_a_cache_is_generation_without(name: str) -> None:
    model = hosts.llama()
    model.set_attn_implementation(f"harken-{SMALL.get(name, name)}")
    inputs, _ = hosts.sample("llama")
    assert torch.equal(hosts.greedy(model, inputs), hosts.by_hand(model, inputs))


def test_a_cache_of_fixed_size_is_read_up_to_where_it_is_filled() -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    for name in ("softmax", "mala"):
        model.set_attn_implementation(f"harken-{name}")
        options = {"cache_implementation": "static", "disable_compile": True}
        assert torch.equal(hosts.greedy(model, inputs, **options), hosts.by_hand(model, inputs))


@pytest.mark.parametrize("name", [name for name, kind in FUNCTIONS.items() if kind.needs_queries])
def test_what_needs_all_queries_says_that_a_cache_has_none(name: str) -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    model.set_attn_implementation(f"harken-{name}")
    with pytest.raises(CapabilityError, match="use_cache=False"):
        hosts.greedy(model, inputs)
    assert torch.equal(hosts.greedy(model, inputs, use_cache=False), hosts.by_hand(model, inputs))


def test_the_span_of_a_name_is_the_span_of_the_model() -> None:
    model = hosts.llama(layers=1)
    model.set_attn_implementation("harken-span:span=window,span_size=3")
    tokens = torch.randint(3, hosts.VOCABULARY, (1, 10))
    changed = tokens.clone()
    changed[:, 0] = 2
    one, other = (hosts.logits(model, {"input_ids": ids}) for ids in (tokens, changed))
    assert not torch.allclose(one[:, 3], other[:, 3]) and torch.allclose(one[:, 4:], other[:, 4:], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_lenses_see_the_matrix_that_a_function_applies(name: str) -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    model.set_attn_implementation(f"harken-{name}")
    with harken.observe(model, "weights") as seen:
        hosts.logits(model, inputs)
    weights = seen["weights"]["model.layers.1.self_attn"]
    assert weights.shape == (2, hosts.HEADS, 12, 12) and not weights.triu(1).any()
    if name in ("softmax", "linear", "mala", "span"):
        assert torch.allclose(weights.sum(-1)[0], torch.ones(hosts.HEADS, 12), atol=1e-4)
        assert not weights[1, :, 4:, :4].any()


def test_gradients_reach_the_projections() -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    for name in NAMES:
        model.set_attn_implementation(f"harken-{name}")
        model.train()
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradient = model.model.layers[0].self_attn.k_proj.weight.grad
        assert gradient is not None and gradient.isfinite().all() and gradient.any(), name


def test_packed_sequences_are_refused_by_all_but_softmax() -> None:
    model = hosts.llama()
    packed = {"input_ids": torch.arange(3, 9)[None], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    before = hosts.logits(model, packed, use_cache=False)
    model.set_attn_implementation("harken-softmax")
    assert torch.allclose(hosts.logits(model, packed, use_cache=False), before, atol=1e-5)
    model.set_attn_implementation("harken-linear")
    with pytest.raises(CapabilityError, match="another pattern of pairs"):
        hosts.logits(model, packed, use_cache=False)


def test_what_no_function_here_does_is_refused() -> None:
    q = torch.randn(1, 2, 3, 4)
    call = FUNCTIONS["mala"]
    with pytest.raises(CapabilityError, match="sliding_window"):
        call(torch.nn.Identity(), q, q, q, None, sliding_window=4)
    with pytest.raises(CapabilityError, match="cross-attention"):
        FUNCTIONS["span"](torch.nn.Identity(), q, q[:, :, :2], q[:, :, :2], None, is_causal=False)
    with pytest.warns(UserWarning, match="dropout"):
        call(torch.nn.Identity(), q, q, q, None, dropout=0.1)


def test_a_name_that_cannot_be_registered_says_why() -> None:
    with pytest.raises(CapabilityError, match="swap"):
        register("longvq")
    with pytest.raises(InputError, match="no option size"):
        register("span:size=3")
    with pytest.raises(InputError, match="no attention mechanism"):
        register("spam")
    with pytest.raises(InputError):
        register("span:span_size=0")


def test_transformers_is_imported_when_it_is_used() -> None:
    room = Path(functions.__file__).parent
    eager = [
        path.name
        for path in room.glob("*.py")
        if re.search(r"^(from|import) (transformers|peft)", path.read_text(), re.M)
    ]
    assert eager == ["streams.py"]  # itself imported by the first layer that meets a cache


def test_without_transformers_there_is_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(functions, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"harken\[text\]"):
        register()
