"""Attention replaced in loaded transformers models."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file

import harken
from harken.bridge import restore, swap, swapped_layers
from harken.errors import CapabilityError, InputError
from tests.bridge import hosts

# small enough for twelve tokens
SMALL = {
    "adaptive-lookahead": "adaptive-lookahead:past=4",
    "deconstructed": "deconstructed:variant=approximate",
    "longvq": "longvq:codebook_size=8,window=4",
    "minimal": "minimal:query_key=symmetric",
    "relative": "relative:max_relative_position=8",
    "sea": "sea:map_width=8,keys=4",
    "shifted": "shifted:group_size=4",
    "sparsifiner": "sparsifiner:num_tokens=12",
    "span": "span:span_size=4",
    "wersa": "wersa:levels=2,random_features=8",
}
NEVER = {"hilo", "multivariate"}  # on a grid
MECHANISMS = [SMALL.get(name, name) for name in harken.list_attention() if name not in NEVER]
CAUSAL = [text for text in MECHANISMS if not text.startswith("sparsifiner")]


@pytest.mark.parametrize("family", hosts.FAMILIES)
def test_softmax_reproduces_the_model(family: str) -> None:
    model = hosts.FAMILIES[family]()
    inputs, real = hosts.sample(family)
    before = hosts.logits(model, inputs)
    for layers in ([0], None):  # the others keep masks of their own, or none is left that needs them
        swap(model, "softmax", layers=layers)
        assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-4)
    swap(model, "linear")
    assert not torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-2)
    restore(model)
    assert torch.equal(hosts.logits(model, inputs)[real], before[real])


@pytest.mark.parametrize("text", ["span:span_size=64", "sink-shifted", "moh:shared_heads=4,routed_heads=0"])
def test_so_do_those_that_leave_no_pair_out(text: str) -> None:
    model, (inputs, real) = hosts.llama(), hosts.sample("llama")
    before = hosts.logits(model, inputs)
    swap(model, text)
    assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-4)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masks_are_understood_in_any_form(implementation: str) -> None:
    model, (inputs, real) = hosts.llama(), hosts.sample("llama")
    before = hosts.logits(model, inputs)
    swap(model, "softmax", layers=[1])
    model.set_attn_implementation(implementation)
    assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-4)


@pytest.mark.parametrize("text", CAUSAL)
def test_generation_is_the_same_with_and_without_a_cache(text: str) -> None:
    model, _ = swap(hosts.llama(), text)
    inputs, real = hosts.sample("llama")
    assert torch.equal(hosts.greedy(model, inputs, 4), hosts.by_hand(model, inputs, 4))
    alone = {name: value[1:, real[1]] for name, value in inputs.items()}
    assert torch.allclose(hosts.logits(model, inputs)[1, real[1]], hosts.logits(model, alone)[0], atol=1e-4)


@pytest.mark.parametrize("text", ["softmax", "lightning", "span:span_size=4"])
def test_hybrids_and_other_families_generate_too(text: str) -> None:
    model, _ = swap(hosts.gpt2(), layers={-1: text})
    inputs, _ = hosts.sample("gpt2")
    assert torch.equal(hosts.greedy(model, inputs), hosts.by_hand(model, inputs))


@pytest.mark.parametrize("text", ["mala", "softmax", "span:span_size=4"])
def test_beams_follow_the_state(text: str) -> None:
    model, (inputs, _) = swap(hosts.llama(), text)[0], hosts.sample("llama")
    options = {"num_beams": 3, "do_sample": False, "max_new_tokens": 5}
    given = {name: value for name, value in inputs.items() if name != "position_ids"}
    cached, plain = (model.generate(**given, **options, use_cache=use) for use in (True, False))
    assert torch.equal(cached, plain)


def test_the_state_of_a_linear_mechanism_does_not_grow() -> None:
    model, _ = swap(hosts.llama(), "mala")
    sizes = []
    for time in (4, 40):
        with torch.no_grad():
            cache = model(input_ids=torch.randint(3, hosts.VOCABULARY, (1, time))).past_key_values
        assert cache.get_seq_length() == time
        sizes.append(sum(part.numel() for layer in cache.layers for part in layer.state))
    assert sizes[0] == sizes[1]


def test_padding_splits_a_batch_no_longer_than_it_must() -> None:
    inputs, _ = hosts.sample("llama")
    for text, together in (("mala", True), ("sea:map_width=8,keys=4", False)):
        model, _ = swap(hosts.llama(), text)
        with torch.no_grad():
            stream = model(**inputs).past_key_values.layers[0]
        assert (stream.items is None) is together


def test_who_goes_on_from_a_pass_with_gradients_gets_the_same() -> None:
    model, (inputs, _) = swap(hosts.llama(), "lightning")[0], hosts.sample("llama")
    token = torch.tensor([[5], [6]])
    real = torch.cat((inputs["attention_mask"], torch.ones_like(token)), 1)
    outputs = []
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            cache = model(**inputs).past_key_values
            places = inputs["position_ids"][:, -1:] + 1
            outputs.append(model(token, attention_mask=real, position_ids=places, past_key_values=cache).logits)
    assert torch.allclose(*outputs, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "vit"])
@pytest.mark.parametrize("text", [text for text in MECHANISMS if text != "gated-linear"])
def test_encoders_take_bidirectional_mechanisms(family: str, text: str) -> None:
    model, report = swap(hosts.FAMILIES[family](), text)
    inputs, real = hosts.sample(family)
    model.train()
    loss = model(**inputs).logits[real].square().mean()
    loss.backward()
    for layer in swapped_layers(model).values():
        kept = report.layers[0].kept
        assert all(getattr(layer, name).weight.grad is not None for name in kept)
    model.eval()
    if family == "bert":
        alone = {name: value[1:, real[1]] for name, value in inputs.items()}
        assert torch.allclose(hosts.logits(model, inputs)[1, real[1]], hosts.logits(model, alone)[0], atol=1e-4)


def test_the_report_says_what_became_of_the_weights() -> None:
    model, report = swap(hosts.llama(), layers={0: "minimal:query_key=separate", 1: "lightning"})
    first, second = report.layers
    assert first.kept == ("q_proj", "k_proj") and first.aside == ("v_proj", "o_proj") and not first.new
    assert second.new == {"gate_proj.weight": 32 * 32} and report.new_parameters == 32 * 32
    assert "1: model.layers.1.self_attn -> lightning; keeps q_proj" in str(report)
    lightning = swapped_layers(model)["model.layers.1.self_attn"].attention
    assert lightning.rate < 0.1  # the last layer looks far back


def test_checkpoints_keep_their_names() -> None:
    model = hosts.llama()
    names = set(model.state_dict())
    swap(model, "lightning")
    added = set(model.state_dict()) - names
    assert names <= set(model.state_dict())
    assert added == {f"model.layers.{layer}.self_attn.attention.gate_proj.weight" for layer in range(2)}
    swap(model, "mala", layers=[0])
    assert restore(model) is model and set(model.state_dict()) == names and not swapped_layers(model)


def test_a_mechanism_of_your_own_can_be_swapped_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from harken.attention import _MECHANISMS
    from harken.attention.softmax import SoftmaxAttention

    class Reversed(SoftmaxAttention):
        name = "reversed"

        def mix(self, q, k, v, mask):
            return super().mix(-q, k, v, mask)

    monkeypatch.setitem(_MECHANISMS, "reversed", Reversed)
    model, (inputs, real) = hosts.llama(), hosts.sample("llama")
    swap(model, "reversed")
    ours = hosts.logits(model, inputs, use_cache=False)[real]
    restore(model)
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.data.neg_()
    assert torch.allclose(hosts.logits(model, inputs)[real], ours, atol=1e-4)


def test_what_cannot_stream_works_without_a_cache() -> None:
    model, (inputs, _) = swap(hosts.llama(), "shifted:grouped=always,group_size=4")[0], hosts.sample("llama")
    assert torch.equal(hosts.logits(model, inputs), hosts.logits(model, inputs, use_cache=False))
    with pytest.raises(CapabilityError, match="use_cache=False"):
        hosts.greedy(model, inputs)
    assert torch.equal(hosts.greedy(model, inputs, 4, use_cache=False), hosts.by_hand(model, inputs, 4))


def test_a_swap_that_fails_leaves_an_earlier_one_alone() -> None:
    model, (inputs, _) = swap(hosts.llama(), "mala")[0], hosts.sample("llama")
    before = hosts.logits(model, inputs)
    with pytest.raises(CapabilityError):
        swap(model, "sparsifiner")
    assert torch.equal(hosts.logits(model, inputs), before)


def test_what_was_saved_fits_the_same_swap(tmp_path) -> None:
    from transformers import LlamaForCausalLM

    model, (inputs, _) = swap(hosts.llama(), "lightning")[0], hosts.sample("llama")
    model.save_pretrained(tmp_path)
    assert "harken" not in (tmp_path / "config.json").read_text()
    again, _ = swap(LlamaForCausalLM.from_pretrained(tmp_path).eval(), "lightning")
    again.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(hosts.logits(again, inputs), hosts.logits(model, inputs))


def test_a_copy_is_a_model_of_its_own() -> None:
    model, (inputs, _) = swap(hosts.llama(), "mala")[0], hosts.sample("llama")
    before = hosts.logits(model, inputs)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.model.layers[0].self_attn.v_proj.weight.zero_()
    assert torch.equal(hosts.logits(model, inputs), before)
    assert not torch.allclose(hosts.logits(twin, inputs), before)
    assert torch.equal(hosts.logits(restore(twin), inputs), hosts.logits(restore(copy.deepcopy(twin)), inputs))


def test_maps_and_losses_can_be_observed() -> None:
    model, (inputs, _) = swap(hosts.llama(), "moh")[0], hosts.sample("llama")
    with torch.no_grad(), harken.observe(model, "weights") as seen:
        model(**inputs)
    assert seen["weights"]["model.layers.0.self_attn.attention"].shape == (2, hosts.HEADS, 12, 12)


def test_long_sequences_are_turned_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (inputs, _) = swap(hosts.llama(), "lightning")[0], hosts.sample("llama")
    inputs = {name: value[:1] for name, value in inputs.items()}
    whole = hosts.logits(model, inputs, use_cache=False)
    monkeypatch.setattr("harken.attention.lightning.PIECE", 5)
    assert torch.allclose(hosts.logits(model, inputs, use_cache=False), whole, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "text", "message"),
    [
        ("llama", "sparsifiner", "no causal form"),
        ("bert", "gated-linear", "causal only"),
        ("vit", "hilo", "grid"),
        ("llama", "minimal", "turns queries and keys by position"),
        ("llama", "deconstructed:variant=rnd-emb-qk", "another sequence"),
        ("llama", "spam", "no attention mechanism"),
        ("llama", "mala:spam=1", "cannot be built"),
    ],
)
def test_what_does_not_fit_says_so_and_leaves_the_model_alone(family: str, text: str, message: str) -> None:
    model = hosts.FAMILIES[family]()
    inputs, _ = hosts.sample(family)
    before = hosts.logits(model, inputs)
    with pytest.raises((CapabilityError, InputError), match=message):
        swap(model, text)
    assert torch.equal(hosts.logits(model, inputs), before) and not swapped_layers(model)


def test_parts_of_a_host_that_would_be_lost_are_named() -> None:
    from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    with pytest.raises(CapabilityError, match="sliding_window"):
        swap(MistralForCausalLM(MistralConfig(**sizes, **heads, sliding_window=4)), "mala")
    with pytest.raises(CapabilityError, match="q_norm, k_norm"):
        swap(Qwen3ForCausalLM(Qwen3Config(**sizes, **heads, head_dim=8)), "mala")
    with pytest.raises(InputError, match="no attention module"):
        swap(torch.nn.Linear(2, 2), "mala")


def test_heads_of_another_width_need_the_softmax_family() -> None:
    model, (inputs, real) = hosts.llama(head_dim=16), hosts.sample("llama")
    before = hosts.logits(model, inputs)
    swap(model, "softmax")
    assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-4)
    with pytest.raises(InputError, match="softmax family"):
        swap(model, "mala")


def test_patterns_that_a_layer_does_not_know_are_refused() -> None:
    packed = {"input_ids": torch.arange(3, 9)[None], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2]])}
    for layers in ([0], None):
        model, _ = swap(hosts.llama(), "linear", layers=layers)
        with pytest.raises(CapabilityError, match="packed sequences"):
            hosts.logits(model, packed, use_cache=False)


def test_layers_that_are_not_there() -> None:
    model = hosts.llama()
    with pytest.raises(InputError, match="2 layers of attention"):
        swap(model, "mala", layers=[2])
    with pytest.raises(InputError, match="which mechanism"):
        swap(model)
    with pytest.raises(InputError, match="not both"):
        swap(model, "mala", layers={0: "mala"})
    with pytest.raises(InputError, match="behind its name"):
        swap(model, layers={0: "span"}, span_size=4)


def test_a_cache_of_another_past_is_not_gone_on_with() -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    with torch.no_grad():
        cache = model(**inputs).past_key_values
        swap(model, "mala")
        with pytest.raises(CapabilityError, match="start a new one"):
            model(torch.tensor([[5], [6]]), past_key_values=cache)
        cache = model(**inputs).past_key_values
        restore(model)
        with pytest.raises(CapabilityError, match="start a new one"):
            model(torch.tensor([[5], [6]]), past_key_values=cache)
