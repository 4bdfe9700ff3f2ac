"""Claims on long contexts: what their judges make of numbers, and that their candidates are what they say."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from harken.attention.linear import linear_attention
from harken.papers import longvq, masformer, sea, sinklora, wersa
from harken.papers._cpu_time import training_seconds
from harken.papers._gated_averages import AverageOnly, LinearisedAverage
from harken.papers._language import Language
from harken.papers._low_rank import adapt
from harken.papers._pretrained import pretrain
from harken.papers._sea_students import Distillation, PerformerAttention, TopKeysAttention
from harken.papers._trials import Trials

SMALL = Language(length=8, steps=1, batch=128, dim=8, layers=2, heads=2)


def bits(**values):
    return Trials("bits_per_byte", values={name: [value, value] for name, value in values.items()})


def accuracy(**values):
    return Trials("accuracy", values={name: [value, value] for name, value in values.items()})


@pytest.mark.parametrize(
    ("full", "spans", "one", "verdict"),
    [
        (2.0, 2.5, 2.04, "holds"),
        (2.0, 2.5, 2.2, "holds in direction"),
        (2.0, 2.5, 2.4, "not shown here"),
        (2.0, 2.01, 2.0, "not shown here"),
        (2.0, 2.5, 2.6, "fails here"),
    ],
)
def test_one_full_layer_must_close_the_gap_that_spans_leave(full, spans, one, verdict):
    assert masformer.judge_language(bits(full=full, spans_only=spans, one_full_at_bottom=one)) == verdict


@pytest.mark.parametrize(
    ("full", "spans", "one", "verdict"),
    [
        (0.9, 0.05, 0.85, "holds"),
        (0.9, 0.05, 0.5, "holds in direction"),
        (0.9, 0.3, 0.9, "holds in direction"),
        (0.3, 0.05, 0.3, "not shown here"),
        (0.9, 0.05, 0.06, "fails here"),
    ],
)
def test_a_copy_counts_only_where_full_attention_learns_it(full, spans, one, verdict):
    assert masformer.judge_copying(accuracy(full=full, spans_only=spans, one_full_at_bottom=one)) == verdict


@pytest.mark.parametrize(
    ("saved", "verdict"),
    [(0.7, "holds"), (0.3, "holds in direction"), (0.1, "not shown here"), (0.0, "fails here")],
)
def test_saving_is_of_time(saved, verdict):
    assert masformer.judge_cost(saved) == verdict


@pytest.mark.parametrize(
    ("full", "sink", "shifted", "verdict"),
    [
        (3.0, 3.1, 3.6, "holds"),
        (3.0, 3.1, 3.2, "holds in direction"),
        (3.0, 3.1, 3.12, "not shown here"),
        (3.0, 3.12, 3.1, "not shown here"),
        (3.99, 3.5, 3.9, "not shown here"),
        (3.0, 3.3, 3.1, "fails here"),
    ],
)
def test_sinks_are_judged_by_their_share_of_what_full_attention_improves(full, sink, shifted, verdict):
    trials = bits(none=4.0, full=full, sink_shifted=sink, shifted=shifted)
    assert sinklora.judge_extension(trials) == verdict


def test_a_share_of_an_improvement():
    trials = bits(none=4.0, full=3.0, shifted=3.25)
    assert sinklora.improvement(trials, "shifted") == pytest.approx(0.75)
    assert sinklora.improvement(bits(none=3.0, full=3.0, shifted=2.0), "shifted") == 0.0


@pytest.mark.parametrize(
    ("heavy_50", "heavy_25", "heavy_10", "verdict"),
    [
        (2.01, 2.05, 2.1, "holds"),
        (2.05, 2.05, 2.1, "holds in direction"),
        (2.01, 2.2, 2.1, "holds in direction"),
        (2.01, 2.05, 2.3, "not shown here"),
        (2.01, 2.3, 2.1, "fails here"),
    ],
)
def test_heavy_hitters_must_keep_quality_and_beat_recent_keys(heavy_50, heavy_25, heavy_10, verdict):
    recent = {"recent_50": 2.1, "recent_25": 2.2, "recent_10": 2.3}
    trials = bits(all=2.0, heavy_50=heavy_50, heavy_25=heavy_25, heavy_10=heavy_10, **recent)
    assert sinklora.judge_cache(trials) == verdict


@pytest.mark.parametrize(
    ("student", "performer", "verdict"),
    [
        (2.05, 2.5, "holds"),
        (2.3, 2.5, "holds in direction"),
        (2.05, 2.1, "holds in direction"),
        (2.1, 2.1, "not shown here"),
        (2.2, 2.1, "fails here"),
    ],
)
def test_a_student_must_stay_close_where_performer_does_not(student, performer, verdict):
    assert sea.judge_students(bits(teacher=2.0, sea=student, performer=performer)) == verdict


@pytest.mark.parametrize(
    ("average", "linearised", "verdict"),
    [
        (2.1, 2.1, "holds in direction"),
        (2.1, 2.01, "not shown here"),
        (2.1, 1.9, "fails here"),
    ],
)
def test_codes_must_beat_the_average_and_linear_attention(average, linearised, verdict):
    trials = bits(longvq=2.0, full_attention=2.0, average_only=average, linearised_attention=linearised)
    assert longvq.judge_language(trials) == verdict


@pytest.mark.parametrize(
    ("growth", "verdict"),
    [(1.1, "holds"), (1.5, "holds in direction"), (3.0, "not shown here"), (8.0, "fails here")],
)
def test_linear_is_flat_per_position(growth, verdict):
    assert longvq.judge_linear_time(growth) == verdict


@pytest.mark.parametrize(
    ("softmax", "plain", "fourier", "verdict"),
    [
        (0.78, 0.79, 0.7, "holds"),
        (0.797, 0.79, 0.7, "holds in direction"),
        (0.78, 0.79, 0.9, "holds in direction"),
        (0.8, 0.8, 0.8, "not shown here"),
        (0.82, 0.7, 0.7, "fails here"),
        (0.7, 0.82, 0.7, "fails here"),
    ],
)
def test_wavelets_must_pay_against_softmax_and_against_none(softmax, plain, fourier, verdict):
    assert wersa.judge_accuracy(accuracy(wersa=0.8, softmax=softmax, no_wavelets=plain, fourier=fourier)) == verdict


@pytest.mark.parametrize(
    ("speedup", "verdict"),
    [(5.0, "holds"), (2.0, "holds in direction"), (1.0, "not shown here"), (0.5, "fails here")],
)
def test_training_time_is_judged_by_its_ratio(speedup, verdict):
    assert wersa.judge_time(speedup) == verdict


def test_low_rank_adaptation_starts_where_the_model_is_and_leaves_the_rest_alone():
    model = SMALL.decoder()()
    tokens = torch.arange(8)[None]
    before = model(tokens)
    adapt(model)
    assert torch.equal(model(tokens), before)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("norm" in name or "embedding" in name or name.endswith(("up", "down")) for name in trained)
    assert sum(name.endswith("up") for name in trained) == 2 * SMALL.layers


def test_a_rank_one_update_reaches_the_weight():
    model = SMALL.decoder()()
    adapt(model)
    linear = model.blocks[0].attention.in_proj
    update = linear.parametrizations.weight[0]
    with torch.no_grad():
        update.up[1] = 1.0  # keys only
    moved = (linear.weight - linear.parametrizations.weight.original).abs().sum(-1) > 0
    assert moved.tolist() == [False] * 8 + [True] * 8 + [False] * 8


@pytest.mark.parametrize("make", [PerformerAttention, lambda dim, heads: TopKeysAttention(dim, heads, keys=3)])
def test_what_sea_is_compared_with_is_causal_and_has_the_matrix_it_says(make):
    layer = make(8, 2)
    q, k, v = torch.randn(3, 1, 2, 10, 4).unbind()
    weights = layer.mix_weights(q, k, None)
    assert torch.allclose(weights @ v, layer.mix(q, k, v, None), atol=1e-5)
    assert torch.allclose(weights, weights.tril())
    assert torch.allclose(weights.sum(-1), torch.ones(1, 2, 10), atol=1e-3)


def test_the_largest_scores_are_kept_and_no_others():
    layer = TopKeysAttention(8, 2, keys=3)
    q, k, v = torch.randn(3, 1, 2, 10, 4).unbind()
    assert (layer.mix_weights(q, k, None) > 0).sum(-1)[0, 0].tolist() == [1, 2] + [3] * 8
    layer.keys = 10
    whole = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.allclose(layer.mix(q, k, v, None), whole, atol=1e-5)


def test_a_student_that_is_its_teacher_learns_from_the_task_alone():
    teacher, student = SMALL.decoder()(), SMALL.decoder()()
    student.load_state_dict(teacher.state_dict())
    inputs, targets = torch.randint(256, (2, 2, 8)).unbind()
    task = F.cross_entropy(student(inputs).flatten(0, 1), targets.flatten())
    assert torch.allclose(Distillation(teacher)(student, inputs, targets), 0.1 * task, atol=1e-5)


def test_sea_is_given_the_lessons_of_its_teacher():
    teacher = SMALL.decoder()()
    student = sea._student("sea", teacher, SMALL)
    inputs, targets = torch.randint(256, (2, 2, 8)).unbind()
    Distillation(teacher)(student, inputs, targets).backward()
    for block, theirs in zip(student.blocks, teacher.blocks, strict=True):
        assert torch.equal(block.attention.in_proj.weight, theirs.attention.in_proj.weight)
        assert block.attention.estimator.map_rows.weight.grad.abs().sum() > 0  # only a lesson reaches it
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_units_that_longvq_is_compared_with_are_causal():
    for unit in (AverageOnly(8), LinearisedAverage(8, causal=True, quantize=False)):
        x = torch.randn(1, 12, 8)
        assert torch.allclose(unit(x)[:, :5], unit(x[:, :5]), atol=1e-5)


def test_the_linearised_unit_has_linear_attention_inside():
    unit = LinearisedAverage(8, causal=True, quantize=False)
    parts, _ = unit._project(torch.randn(1, 12, 8), None, None)
    expected = linear_attention(parts.queries, parts.keys, parts.values, causal=True)
    assert torch.allclose(unit._mix(parts, None), expected, atol=1e-5)


def test_pretraining_follows_from_the_seed():
    (one, bits_one), (other, bits_other) = (pretrain(SMALL.decoder(), SMALL, 3, lambda *_: None) for _ in range(2))
    assert bits_one == bits_other
    assert torch.equal(one.embedding.weight, other.embedding.weight)


def test_a_cache_of_everything_decodes_what_the_whole_sequence_gives():
    from harken.attention.cache import FullCache, HeavyHitters
    from harken.papers.sinklora import ROTARY, _decoded_bits

    model = SMALL.decoder(f"softmax:{ROTARY}", positions="none")()
    whole = _decoded_bits(model.state_dict(), SMALL, FullCache(), 2)
    assert _decoded_bits(model.state_dict(), SMALL, HeavyHitters(heavy=4, recent=4, slack=1), 2) == pytest.approx(whole)
    assert _decoded_bits(model.state_dict(), SMALL, HeavyHitters(heavy=1, recent=1, slack=1), 2) != whole


def test_a_training_pass_is_measured_on_one_thread_which_is_given_back():
    before, heard = torch.get_num_threads(), []
    seconds = training_seconds({"a": torch.nn.Linear(4, 4)}, torch.randn(1, 3, 4), 2, heard.append)
    assert seconds["a"] > 0
    assert heard == ["a"] * 3
    assert torch.get_num_threads() == before
