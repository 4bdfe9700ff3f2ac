"""The papers' conversions of a trained model, on a tiny random one."""

from __future__ import annotations

import copy

import pytest
import torch

import harken
from harken.bridge import (
    conversions,
    distill_sea,
    interpolate_positions,
    lora_sinklora,
    masformer_layers,
    restore,
    swap,
    swapped_layers,
)
from harken.errors import InputError, MissingExtraError
from tests.bridge import hosts


def batch(time: int = 16) -> dict[str, torch.Tensor]:
    tokens = torch.randint(3, hosts.VOCABULARY, (2, time), generator=torch.Generator().manual_seed(2))
    return {"input_ids": tokens, "labels": tokens}


def test_moh_is_tuned_on_with_the_loss_that_it_emits() -> None:
    model, report = swap(hosts.llama(kv_heads=4), "moh", shared_heads=2, routed_heads=1)
    assert report.new_parameters == 0  # the router is the length of the queries
    model.train()
    rate, losses = torch.optim.AdamW(model.parameters(), 1e-2), []
    for _ in range(8):
        with harken.observe(model, "loss", "routing") as seen:
            task = model(**batch()).loss
        assert set(seen["loss"]) == {f"model.layers.{layer}.self_attn.attention" for layer in range(2)}
        assert ((seen.all("routing")[0] > 0).sum(-1) == 3).all()
        rate.zero_grad()
        (task + seen.total("loss")).backward()
        rate.step()
        losses.append(task.item())
    assert losses[-1] < 0.7 * losses[0]


def test_moh_with_all_heads_is_the_model() -> None:
    model, (inputs, real) = hosts.llama(), hosts.sample("llama")
    before = hosts.logits(model, inputs)
    swap(model, "moh", shared_heads=4, routed_heads=0)
    assert torch.allclose(hosts.logits(model, inputs)[real], before[real], atol=1e-4)


def test_a_masformer_sees_everything_through_its_full_layers() -> None:
    tokens = torch.randint(3, hosts.VOCABULARY, (1, 12), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[:, 0] = 2
    for full, reaches in ((1, True), (0, False)):
        model, report = swap(hosts.llama(), "span", layers=masformer_layers(2, full=full), span_size=4)
        assert [layer.index for layer in report.layers] == list(range(full, 2))
        one, other = (hosts.logits(model, {"input_ids": ids})[:, 8:] for ids in (tokens, changed))
        assert torch.allclose(one, other, atol=1e-6) is not reaches


@pytest.mark.parametrize("placement", ["bottom", "top", "middle", "interleaved"])
def test_so_many_layers_stay_full(placement: str) -> None:
    for full in range(8):
        assert len(masformer_layers(7, full=full, placement=placement)) == 7 - full


def test_layers_that_cannot_stay_full() -> None:
    with pytest.raises(InputError, match="expected 0 to 4"):
        masformer_layers(4, full=5)
    with pytest.raises(InputError, match="no layer 4"):
        masformer_layers(4, full=[4])


def test_squeezed_positions_turn_by_less() -> None:
    model, (inputs, _) = hosts.llama(), hosts.sample("llama")
    inputs = {name: value[:1] for name, value in inputs.items()}
    before = hosts.logits(model, inputs)
    assert interpolate_positions(model, 64) == 1
    assert interpolate_positions(model, 200) == 4
    apart = {**inputs, "position_ids": 4 * inputs["position_ids"]}
    assert torch.allclose(hosts.logits(model, apart, use_cache=False), before, atol=1e-4)
    assert not torch.allclose(hosts.logits(model, inputs, use_cache=False), before, atol=1e-2)
    with pytest.raises(InputError, match="scaled already"):
        interpolate_positions(model, 400)
    with pytest.raises(InputError, match="no rotary"):
        interpolate_positions(hosts.gpt2(), 400)


@pytest.mark.parametrize("attention", ["sink-shifted", "shifted"])
def test_sinklora_trains_in_groups_and_evaluates_in_full(attention: str) -> None:
    pytest.importorskip("peft")
    original = hosts.llama()
    model = lora_sinklora(copy.deepcopy(original), length=128, attention=attention, group_size=4)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name or "norm" in name or "embed" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 4 and any("input_layernorm" in name for name in trained)
    frozen = {name: parameter.clone() for name, parameter in model.named_parameters() if name not in trained}

    model.train()
    in_groups = model(**batch()).loss.item()
    rate = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad], 1e-2)
    for _ in range(6):
        rate.zero_grad()
        model(**batch()).loss.backward()
        rate.step()
    assert model(**batch()).loss.item() < in_groups
    assert all(torch.equal(parameter, frozen[name]) for name, parameter in model.named_parameters() if name in frozen)

    model.eval()
    full = hosts.logits(model, batch())
    restored = restore(model)
    assert not swapped_layers(restored)
    assert torch.allclose(hosts.logits(restored, batch()), full, atol=1e-4)
    merged = restored.merge_and_unload()
    assert torch.allclose(hosts.logits(merged, batch()), full, atol=1e-4)
    assert not torch.allclose(hosts.logits(original, batch()), full, atol=1e-2)


def test_without_peft_there_is_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversions, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"harken\[text\]"):
        lora_sinklora(hosts.llama())


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_sea_learns_from_its_softmax_teacher(family: str) -> None:
    teacher = hosts.FAMILIES[family]()
    inputs, _ = hosts.sample(family)
    inputs["labels"] = inputs["input_ids"]
    before, used = hosts.logits(teacher, inputs), teacher.config._attn_implementation
    student, _ = swap(copy.deepcopy(teacher), "sea:map_width=8,keys=4")
    away = (hosts.logits(student, inputs) - before).square().mean()
    losses = distill_sea(teacher, student, [inputs] * 8, learning_rate=1e-3)
    assert losses[-1] < 0.9 * losses[0]
    assert (hosts.logits(student, inputs) - before).square().mean() < away
    assert teacher.config._attn_implementation == used and torch.equal(hosts.logits(teacher, inputs), before)
    assert all(layer.attention.lesson is None for layer in swapped_layers(student).values())


def test_a_student_without_sea_is_no_student() -> None:
    with pytest.raises(InputError, match="no layers with SEA"):
        distill_sea(hosts.llama(), hosts.llama(), [])
    student, _ = swap(hosts.bert(), "sea:map_width=8,keys=4")
    with pytest.raises(InputError, match="copied from"):
        distill_sea(hosts.llama(), student, [])
