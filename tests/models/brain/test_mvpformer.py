"""MVPFormer: causal over segments, symmetric over channels, a stream that equals the whole, the released names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.errors import CheckpointError, InputError
from harken.layers.lora import merge_updates
from harken.models.brain.mvpformer import MVPFormer, MVPFormerConfig
from harken.models.brain.next_segment import (
    contrastive_logits,
    contrastive_loss,
    draw_negatives,
    next_segment_loss,
    retrieval_accuracy,
)

CASE = Path(__file__).parents[2] / "parity/mvpformer"
TINY = MVPFormerConfig(
    segment=32, dim=16, layers=2, heads=4, kv_heads=2, hidden=24, max_segments=16, max_channels=8, content_window=3
)
UPSTREAM = replace(TINY, lag_indexing="upstream", last_sees_all=True, length=8)


def build(config: MVPFormerConfig = TINY) -> MVPFormer:
    model = MVPFormer(config)
    for name, parameter in model.named_parameters():  # far from the small start, so that every part shows
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("config", [TINY, UPSTREAM, *(replace(TINY, attention=a) for a in ("softmax", "lightning"))])
def test_a_stream_equals_the_whole(config):
    model, x = build(config), torch.randn(2, 8, 3, 32)
    with torch.inference_mode():
        whole = model.hidden(model.encode(x))
        state, parts = model.init_state(2, channels=3), []
        for chunk in x.split([1, 3, 1, 2, 1], 1):
            part, state = model.step(chunk, state)
            parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=2e-4, rtol=1e-3)


def test_the_released_rules_need_to_know_where_a_stream_ends():
    with pytest.raises(InputError, match="length="):
        build(replace(UPSTREAM, length=None)).init_state(1, channels=3)
    model = build(UPSTREAM)
    with pytest.raises(InputError, match="the stream has 3 channels, these segments 2"):
        model.step(torch.zeros(1, 1, 2, 32), model.init_state(1, channels=3))


@pytest.mark.parametrize("config", [TINY, UPSTREAM])
def test_what_follows_changes_nothing_before(config):
    model, x = build(config), torch.randn(1, 8, 3, 32)
    changed = x.clone()
    changed[:, 5] += 1
    before, after = (model.hidden(model.encode(part)) for part in (x, changed))
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before[:, 5:], after[:, 5:], atol=1e-3)


@pytest.mark.parametrize("config", [TINY, UPSTREAM])
def test_channels_in_reverse_give_the_reverse(config):
    model, x = build(config), torch.randn(2, 8, 4, 32)
    forward, backward = (model.hidden(model.encode(part)) for part in (x, x.flip(2)))
    torch.testing.assert_close(backward, forward.flip(2), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.hidden(model.encode(x.roll(1, 2))), forward.roll(1, 2), atol=1e-2)


@pytest.mark.parametrize("config", [TINY, UPSTREAM, replace(TINY, readout="mean")])
def test_missing_channels_are_as_if_they_were_not_there(config):
    model, x = build(config), torch.randn(2, 8, 4, 32)
    mask = torch.ones(2, 8, 4, dtype=torch.bool)
    mask[:, :, 3] = False
    torch.testing.assert_close(model(x, mask=mask), model(x[:, :, :3]), atol=1e-5, rtol=1e-5)
    noise = x.clone()
    noise[:, :, 3] = 100 * torch.randn(2, 8, 32)
    torch.testing.assert_close(model(noise, mask=mask), model(x, mask=mask))
    assert model(x, mask=torch.zeros_like(mask)).isfinite().all()


@pytest.mark.parametrize("config", [TINY, replace(UPSTREAM, length=None), replace(TINY, readout="mean")])
def test_items_of_different_length_and_montage_share_a_batch(config):
    model, x = build(config), torch.randn(2, 8, 4, 32)
    mask = torch.ones(2, 8, 4, dtype=torch.bool)
    mask[1, 5:], mask[1, :, 2:] = False, False
    torch.testing.assert_close(model(x, mask=mask)[1:], model(x[1:, :5, :2]), atol=1e-5, rtol=1e-5)


def test_the_last_segments_decision_is_the_models():
    model, x = build(), torch.randn(2, 5, 3, 32)
    hidden = model.hidden(model.encode(x))
    torch.testing.assert_close(model.classify_segments(hidden)[:, -1], model(x))
    mean = build(replace(TINY, readout="mean"))
    torch.testing.assert_close(mean(x), mean.classify_segments(mean.hidden(mean.encode(x))).mean(1))


def test_without_content_a_map_knows_places_only():
    model = build()
    attention = model.blocks[0].attention
    with torch.no_grad():
        attention.kv_proj.weight[: attention.kv_proj.out_features // 2] = 0  # the keys
        attention.q_proj.weight.zero_()
    one, other = (attention.weights(torch.randn(1, 24, 16), grid=(3, 8)) for _ in range(2))
    torch.testing.assert_close(one, other)


def test_all_layers_read_one_pair_of_tables_wherever_they_go():
    import copy

    model = copy.deepcopy(MVPFormer(TINY)).double()
    first, second = (block.attention for block in model.blocks)
    assert second.time_embedding is first.time_embedding
    assert second.time_embedding.dtype == torch.double
    assert sum("time_embedding" in name for name in model.state_dict()) == 1


def test_fine_tuning_starts_where_pre_training_ended_and_moves_little():
    model, x = build(), torch.randn(2, 5, 3, 32)
    tuned = model.adapted(rank=2)
    torch.testing.assert_close(tuned(x), model(x))
    trained = {name for name, parameter in tuned.named_parameters() if parameter.requires_grad}
    assert {name.rsplit(".", 3)[0].removeprefix("blocks.0.attention.") for name in trained if "blocks.0" in name} == {
        "q_proj",
        "kv_proj",
    }
    assert "classifier.weight" in trained
    assert "head.weight" not in trained
    for update in (block.attention.kv_proj.updates[0] for block in tuned.blocks):
        torch.nn.init.normal_(update.up)
    logits = tuned(x)
    merge_updates(tuned)
    torch.testing.assert_close(tuned(x), logits, atol=1e-5, rtol=1e-4)


def test_negatives_are_any_other_real_token_and_never_itself():
    real = torch.ones(2, 3, 2, dtype=torch.bool)
    real[1, :, 1] = False
    drawn = draw_negatives(real, 500, torch.Generator().manual_seed(0)).flatten(0, 2)
    for own, present in enumerate(real.flatten()):
        others = set(real.flatten().nonzero()[:, 0].tolist()) - {own}
        if present:
            assert set(drawn[own].tolist()) == others
    assert draw_negatives(torch.ones(1, 4, 1, dtype=torch.bool), 3).shape == (1, 4, 1, 3)  # a batch of one is enough


def test_the_positive_has_a_gradient_and_negatives_have_none():
    tokens = torch.randn(1, 3, 2, 4, requires_grad=True)
    negatives = torch.zeros(1, 3, 2, 5, dtype=torch.long)
    logits = contrastive_logits(torch.randn(1, 3, 2, 4), tokens, negatives)
    contrastive_loss(logits).backward()
    assert not tokens.grad[:, 0].any()  # only ever a negative
    assert tokens.grad[:, 1:].abs().amin((0, 2, 3)).gt(0).all()


def test_a_negative_that_is_the_positive_is_none():
    tokens = torch.randn(1, 2, 1, 4)
    tokens[:, 1] = tokens[:, 0]
    logits = contrastive_logits(torch.randn(1, 2, 1, 4), tokens, torch.zeros(1, 2, 1, 3, dtype=torch.long))
    assert logits[..., 1:].isneginf().all()
    assert contrastive_loss(logits).item() == 0


def test_pre_training_learns_a_rhythm():
    time = torch.arange(6 * 32) / 32
    generator = torch.Generator().manual_seed(0)
    rates = torch.randint(2, 9, (24, 2, 1), generator=generator)
    x = torch.sin(2 * torch.pi * rates * time).unflatten(-1, (6, 32)).transpose(1, 2)
    model = MVPFormer(replace(TINY, dropout=0.0))

    def accuracy() -> float:
        return retrieval_accuracy(model, x, negatives=7, generator=torch.Generator().manual_seed(1))

    before = accuracy()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        next_segment_loss(model, x, negatives=7, generator=generator).backward()
        optimizer.step()
    assert before < 0.3
    assert accuracy() > 0.45


def released() -> dict[str, torch.Tensor]:
    return load_file(CASE / "weights.safetensors")


CONFIG = replace(
    TINY, segment=64, dim=24, hidden=40, lag_indexing="upstream", last_sees_all=True, content_window=10, dropout=0.0
)


def test_released_heads_and_updates_are_understood():
    x = torch.randn(1, 4, 3, 64)
    state = released()
    plain = MVPFormer.from_authors(state, CONFIG).eval()
    assert not plain(x).any()  # no classifier was given
    state["head.head.weight"] = torch.randn(2, 24)  # a classification head in place of the generative one
    state["mvpformer.h.0.ln_2.weight"] = torch.ones(24)
    for part, rows in (("q_attn", 24), ("c_attn", 12)):
        state[f"mvpformer.h.0.attn.{part}.lora_A"] = torch.randn(4, 24)
        state[f"mvpformer.h.0.attn.{part}.lora_B"] = torch.randn(rows, 4)
    tuned = MVPFormer.from_authors(state, CONFIG).eval()
    assert tuned(x).any()
    change = tuned.blocks[0].attention.kv_proj.weight - plain.blocks[0].attention.kv_proj.weight
    assert not change[:12].any()
    expected = 4.0 * state["mvpformer.h.0.attn.c_attn.lora_B"] @ state["mvpformer.h.0.attn.c_attn.lora_A"]
    torch.testing.assert_close(change[12:], expected, atol=1e-5, rtol=1e-5)


def test_sizes_are_read_off_where_they_can_be():
    with pytest.raises(CheckpointError, match="do not tell how many heads"):
        MVPFormer.from_authors(released())
    wide = MVPFormer(replace(CONFIG, dim=768, heads=12, kv_heads=4, layers=1)).state_dict()
    theirs = {"ffn.gate_up": "mlp", "attention.term_bias": "attn.attn_bias"}
    state = {f"mvpformer.h.0.mlp.{part}_proj.weight": torch.zeros(40, 768) for part in ("gate", "up")}
    state |= {"mvpformer.h.0.mlp.down_proj.weight": torch.zeros(768, 40)}
    names = {"q_attn": "q_proj", "c_attn": "kv_proj", "position_net": "time_proj", "channel_net": "channel_proj"}
    for ours, own in ({**names, "c_proj": "out_proj"}).items():
        state[f"mvpformer.h.0.attn.{ours}.weight"] = wide[f"blocks.0.attention.{own}.weight"]
    state |= {
        f"mvpformer.h.0.{theirs['attention.term_bias']}": wide["blocks.0.attention.term_bias"].flatten(),
        "mvpformer.h.0.ln_1.weight": wide["blocks.0.norm.weight"],
        "mvpformer.ln_f.weight": wide["norm.weight"],
        "mvpformer.positional_embedding.weight": wide["blocks.0.attention.time_embedding"],
        "mvpformer.channel_embedding.weight": wide["blocks.0.attention.channel_embedding"],
        "encoder.ln.weight": wide["encoder.norm.weight"],
        "encoder.proj.weight": wide["encoder.proj.weight"],
    }
    config = MVPFormer.from_authors(state).config
    assert (config.segment, config.heads, config.kv_heads, config.hidden) == (64, 12, 4, 40)
    assert (config.lag_indexing, config.last_sees_all, config.max_segments) == ("upstream", True, 16)


@pytest.mark.parametrize(
    "change", [{"dim": 30}, {"kv_heads": 3}, {"layers": 0}, {"dropout": 1.0}, {"classes": -1}, {"segment": 0}]
)
def test_impossible_sizes_are_refused(change):
    with pytest.raises(InputError):
        replace(TINY, **change)


@pytest.mark.border
def test_wrong_segments_are_refused():
    with pytest.raises(InputError, match="expected segments of 32 samples, got 33"):
        build()(torch.zeros(1, 2, 3, 33))
    with pytest.raises(InputError, match="raise max_channels"):
        build()(torch.zeros(1, 2, 9, 32))
    with pytest.raises(InputError, match="shorter segments"):
        next_segment_loss(build(), torch.zeros(1, 1, 3, 32))
    with pytest.raises(InputError, match="tells no classes apart"):
        build(replace(TINY, classes=0))(torch.zeros(1, 2, 3, 32))
