"""Claims on language models: what their judges make of numbers, and that their candidates are what they say."""

from __future__ import annotations

import pytest
import torch

from harken.attention.lightning import head_slopes, lightning_attention
from harken.attention.moh import MoHAttention
from harken.papers import (
    deconstructing_attention,
    flowformer,
    moh,
)
from harken.papers import (
    lightning_attention as lightning,
)
from harken.papers import (
    lightning_attention_2 as lightning_2,
)
from harken.papers._deconstructed_decoder import DeconstructedDecoder
from harken.papers._language import Language, orders, orders_text
from harken.papers._trials import Trials


def bits(**values):
    return Trials("bits_per_byte", values={name: [value, value] for name, value in values.items()})


def accuracy(*values):
    names = ("flow", "linear", "softmax", "flow_without_competition", "flow_without_allocation")
    return Trials("accuracy", values={name: [value, value] for name, value in zip(names, values, strict=True)})


@pytest.mark.parametrize(
    ("all_heads", "moh_75", "moh_50", "random_50", "verdict"),
    [
        (2.0, 1.9, 2.01, 2.2, "holds"),
        (2.0, 2.0, 2.01, 2.2, "holds in direction"),
        (2.0, 2.0, 2.1, 2.2, "not shown here"),
        (2.0, 1.9, 1.9, 1.9, "not shown here"),
        (2.0, 2.1, 2.1, 2.2, "fails here"),
        (2.0, 1.9, 1.9, 1.8, "fails here"),
    ],
)
def test_fewer_heads_must_match_all_and_beat_random_ones(all_heads, moh_75, moh_50, random_50, verdict):
    trials = bits(all_heads=all_heads, moh_75=moh_75, moh_50=moh_50, random_50=random_50)
    assert moh.judge_heads(trials) == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ((0.8, 0.7, 0.8, 0.7, 0.7), "holds"),
        ((0.8, 0.7, 0.8, 0.8, 0.7), "holds in direction"),
        ((0.8, 0.7, 0.9, 0.7, 0.7), "holds in direction"),
        ((0.8, 0.8, 0.7, 0.7, 0.7), "not shown here"),
        ((0.7, 0.8, 0.7, 0.6, 0.6), "fails here"),
    ],
)
def test_flow_must_beat_linear_attention(values, verdict):
    assert flowformer.judge_pixels(accuracy(*values)) == verdict


@pytest.mark.parametrize(
    ("tiled", "others", "verdict"),
    [
        ((1.1, 1.2), (5.0, 4.0), "holds"),
        ((1.1, 1.5), (5.0, 4.0), "holds in direction"),
        ((1.1, 2.0), (5.0, 2.5), "not shown here"),
        ((1.1, 4.0), (5.0, 3.0), "fails here"),
    ],
)
def test_time_must_stay_while_that_of_others_grows(tiled, others, verdict):
    growth = {"tiled": tiled, "left_products": others, "softmax": (6.0, 6.0)}
    assert lightning_2.judge_growth(growth) == verdict


@pytest.mark.parametrize(
    ("tnl", "transformer", "verdict"),
    [
        (1.1, 3.0, "holds"),
        (1.3, 3.0, "holds in direction"),
        (1.3, 1.4, "not shown here"),
        (1.5, 1.4, "fails here"),
    ],
)
def test_training_speed_must_stay_while_the_transformer_s_falls(tnl, transformer, verdict):
    assert lightning.judge_speed({"tnl": tnl, "transformer": transformer}) == verdict


def test_an_ordering_is_judged_pair_by_pair():
    found = orders(bits(a=1.0, b=2.0, c=2.0, d=1.5), [("a", "b"), ("b", "c"), ("c", "d")], margin=0.1)
    assert found == {"a before b": "better", "b before c": "unclear", "c before d": "worse"}
    assert orders_text(found) == "1 of 3 comparisons as in the paper; unclear: b before c; reversed: c before d"


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"tnl before without_gate": "unclear"}, "holds in direction"),
        ({"tnl before without_gate": "worse"}, "not shown here"),
        ({"tnl before transformer": "worse"}, "fails here"),
    ],
)
def test_the_order_of_the_ablation_decides(changed, verdict):
    found = {f"{a} before {b}": "better" for a, b in lightning.ORDER}
    assert lightning.judge_order({**found, **changed}) == verdict


def study(**changed):
    """Numbers like the paper's own, some of them changed."""
    uniform = {"mlp": 3.5, "approximate": 2.1, "non-approximate": 4.0}
    uniform |= {"rnd-emb-qk": 2.4, "fixed-seq-qk": 2.4, "static-emb-qk": 2.4}
    values = {"standard": 2.0, **uniform}
    values |= {f"{name}_hybrid": 2.2 if name == "mlp" else 2.05 for name in uniform}
    values |= {f"{name}_skip": 6.0 for name in uniform}
    return bits(**{**values, **{name.replace("__", "-"): value for name, value in changed.items()}})


@pytest.mark.parametrize(
    ("changed", "verdict"),
    [
        ({}, "holds"),
        ({"non__approximate": 2.6}, "holds in direction"),
        ({"static__emb__qk_hybrid": 3.0}, "not shown here"),
        ({"mlp_skip": 2.3}, "not shown here"),
        ({"mlp": 1.9}, "fails here"),
    ],
)
def test_the_study_s_central_findings_decide(changed, verdict):
    trials = study(**changed)
    pairs = [*deconstructing_attention.UNIFORM, *deconstructing_attention.HYBRID]
    found = orders(trials, pairs, deconstructing_attention.MARGIN)
    central = deconstructing_attention.central_findings(trials)
    assert deconstructing_attention.judge_principles(found, central) == verdict


def test_left_products_equal_tiles(seed):
    q, k, v = (torch.randn(1, 2, 11, 4, generator=seed) for _ in range(3))
    slopes = head_slopes(2)
    tiled = lightning_attention(q, k, v, slopes, causal=True, chunk_size=4)
    torch.testing.assert_close(lightning_2.left_products(q, k, v, slopes, tile=3), tiled)


def test_random_heads_do_not_depend_on_the_input(seed):
    language = Language(dim=16, layers=2, heads=8)
    half = language.decoder("moh:shared_heads=2,routed_heads=2")
    layer: MoHAttention = moh._with_random_heads(half, 6, chosen=2)().blocks[0].attention
    one, other = (layer.route(torch.randn(2, 6, 16, generator=seed)) > 0 for _ in range(2))
    assert torch.equal(one, other)
    assert (one.sum(-1) == 4).all()
    assert len(one[0].unique(dim=0)) > 1


def test_absolute_positions_tell_places_apart():
    language = Language(dim=16, layers=1, heads=2)
    build = lightning._with_absolute_positions(lightning._transnormer(language, decay=False, lrpe_layers=()), 5)
    embedded = build().embedding(torch.zeros(1, 5, dtype=torch.long))
    assert not torch.equal(embedded[0, 0], embedded[0, 1])


def deconstructed(*variants, layers=2):
    torch.manual_seed(0)
    model = DeconstructedDecoder(variants, 16, layers, 2, 32, text=torch.arange(12), longest=12)
    return model.eval()


@pytest.mark.parametrize("variant", deconstructing_attention.VARIANTS)
def test_a_deconstructed_model_is_causal(variant):
    model, tokens = deconstructed(variant, "standard"), torch.arange(10)[None]
    changed = tokens.clone()
    changed[0, 6] = 20
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens)[:, :6], model(changed)[:, :6])
        assert not torch.equal(model(tokens)[:, 6:], model(changed)[:, 6:])


def test_a_fixed_text_is_read_as_the_model_itself_reads_it():
    model = deconstructed("fixed-seq-qk")
    standard = deconstructed("standard")
    standard.decoder.load_state_dict(model.decoder.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(model(model.text[None]), standard(model.text[None]))


def test_static_embeddings_are_the_current_layer_s_in_the_first_layer_only():
    tokens = torch.arange(8)[None]
    for layers, same in ((1, True), (2, False)):
        static, standard = deconstructed("static-emb-qk", layers=layers), deconstructed("standard", layers=layers)
        standard.load_state_dict(static.state_dict())
        with torch.inference_mode():
            assert torch.allclose(static(tokens), standard(tokens), atol=1e-5) == same


def test_variants_have_as_many_parameters():
    counts = {name: sum(p.numel() for p in deconstructed(name).parameters()) for name in ("standard", "rnd-emb-qk")}
    mlp = sum(p.numel() for p in deconstructed("mlp").parameters())
    assert counts["standard"] == counts["rnd-emb-qk"]
    assert abs(mlp - counts["standard"]) < 0.03 * counts["standard"]


def test_a_skip_model_has_the_other_layers_left_and_leaves_the_hybrid_alone():
    hybrid = deconstructed("mlp", "standard", layers=4)
    skip = hybrid.without(["mlp"])
    assert [block.attention.variant for block in skip.decoder.blocks] == ["standard", "standard"]
    assert len(hybrid.decoder.blocks) == 4
    torch.testing.assert_close(
        skip.decoder.blocks[1].attention.in_proj.weight, hybrid.decoder.blocks[3].attention.in_proj.weight
    )
