"""The brain module: the authors' tensors, what positions and subjects may change, and the folded form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harken import observe
from harken.errors import CheckpointError, InputError
from harken.models.brain.segment_retrieval import clip_loss, clip_scores, squared_distance_scores
from harken.models.brain.speech_decoding import SensorAttention, SpeechDecoding, SpeechDecodingConfig
from harken.papers.parity import check_parity, load_case

CASE = Path(__file__).parents[2] / "parity/brain-speech-decoding"
UNKNOWN = (-0.1, -0.1)


@pytest.fixture
def model() -> SpeechDecoding:
    config = SpeechDecodingConfig(
        features=5, subjects=3, virtual_sensors=6, position_dim=32, mixed=7, hidden=8, layers=4, dilation_period=2
    )
    made = SpeechDecoding(config).eval()
    for norm in made.blocks.norms:
        torch.nn.init.normal_(norm.running_mean)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
        torch.nn.init.normal_(norm.weight, 1.0, 0.2)
        torch.nn.init.normal_(norm.bias)
    return made


@pytest.fixture
def trials(seed) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(3, 9, 50, generator=seed), torch.tensor([2, 0, 1]), torch.rand(9, 2, generator=seed)


def test_the_authors_tensors():
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert set(report.not_compared) == {"x", "positions", "subject", "candidates"}


@torch.inference_mode()
def test_the_folded_form_gives_the_authors_output_too():
    case = load_case(CASE)
    model = SpeechDecoding.from_authors(case.weights).eval()
    rows = zip(case.io["x"], case.io["subject"], case.io["positions"], strict=True)
    out = torch.cat([model.merged(place)(x[None], subject[None]) for x, subject, place in rows])
    torch.testing.assert_close(out, case.io["out"], atol=5e-4, rtol=0)


@torch.no_grad()
def test_folded_and_plain_agree_for_every_subject(model, trials):
    x, subject, positions = trials
    torch.testing.assert_close(model.merged(positions)(x, subject), model(x, subject, positions), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_sensors_may_come_in_any_order_and_one_without_a_place_is_not_heard(model, trials, seed):
    x, subject, positions = trials
    order = torch.randperm(9, generator=seed)
    torch.testing.assert_close(model(x[:, order], subject, positions[order]), model(x, subject, positions))
    positions[4] = torch.tensor(UNKNOWN)
    before = model(x, subject, positions)
    x[:, 4] = 1e4
    assert torch.equal(model(x, subject, positions), before)


@torch.no_grad()
def test_a_shift_in_time_shifts_the_output_away_from_the_edges(model, seed):
    x, subject, positions = torch.randn(1, 9, 80, generator=seed), torch.tensor([1]), torch.rand(9, 2, generator=seed)
    reach = model.reach
    assert reach == 2 * (1 + 2) + 2
    out, moved = model(x, subject, positions), model(x.roll(7, -1), subject, positions)
    inner = slice(reach + 7, 80 - reach)
    torch.testing.assert_close(moved[..., inner], out.roll(7, -1)[..., inner])
    x[..., 40] += 1
    changed = (model(x, subject, positions) - out).abs().amax((0, 1)) > 0
    assert changed.nonzero().min() >= 40 - reach
    assert changed.nonzero().max() <= 40 + reach


@torch.no_grad()
def test_subjects_differ_by_their_matrix_alone(model, trials):
    x, _, positions = trials
    same = x[:1].expand(2, -1, -1)
    one, other = model(same, torch.tensor([0, 1]), positions)
    assert not torch.allclose(one, other)
    model.subjects.weight[1] = model.subjects.weight[0]
    torch.testing.assert_close(model(same, torch.tensor([0, 1]), positions)[1], one)


def test_a_montage_of_unknown_sensors_gives_zeros_and_finite_gradients(seed):
    attention = SensorAttention(4, 32)
    x, nowhere = torch.randn(2, 3, 10, generator=seed), torch.tensor(UNKNOWN).expand(3, 2)
    out = attention(x, nowhere)
    assert not out.any()
    out.sum().backward()
    assert attention.heads.grad.isfinite().all()


def test_where_every_sensor_is_banned_none_is(seed):
    attention = SensorAttention(4, 32, ban_radius=2.0).train()
    positions = torch.rand(5, 2, generator=seed)
    out = attention(torch.randn(2, 5, 8, generator=seed), positions, generator=seed)
    assert out.isfinite().all()
    assert out.any()
    weights = attention.weights(positions, ban=positions[2])
    torch.testing.assert_close(weights, attention.weights(positions))


def test_the_banned_place_follows_from_the_generator(seed):
    attention = SensorAttention(4, 32).train()
    x, positions = torch.randn(1, 30, 8, generator=seed), torch.rand(30, 2, generator=seed)
    outs = [attention(x, positions, generator=torch.Generator().manual_seed(n)) for n in (1, 1, 2)]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


@torch.no_grad()
def test_one_place_for_all_or_one_for_each(model, trials):
    x, subject, positions = trials
    torch.testing.assert_close(
        model(x, subject, positions.expand(3, -1, -1)), model(x, subject, positions), atol=1e-6, rtol=1e-5
    )


def test_the_weights_of_sensors_can_be_watched(model, trials):
    with observe(model, "weights") as seen:
        model(*trials)
    (weights,) = seen.all("weights")
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))


@torch.no_grad()
def test_in_bfloat16_it_is_close(model, trials):
    x, subject, positions = trials
    half = model.to(torch.bfloat16)(x.bfloat16(), subject, positions)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), model.float()(x, subject, positions), atol=0.15, rtol=0.1)


def test_scores_are_a_loop_over_pairs_and_small_estimates_know_nothing(seed):
    z, y = torch.randn(4, 3, 10, generator=seed), torch.randn(9, 3, 10, generator=seed)
    scores = clip_scores(z, y)
    for i in range(4):
        for j in range(9):
            torch.testing.assert_close(scores[i, j], (z[i] * y[j]).sum() / y[j].norm())
            distance = -(z[i] - y[j]).square().mean()
            torch.testing.assert_close(squared_distance_scores(z, y)[i, j], distance, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(clip_loss(1e-4 * scores), torch.tensor(9.0).log(), atol=1e-3, rtol=0)


def test_a_segment_that_two_people_heard_is_no_negative(seed):
    z, y = torch.randn(3, 2, 5, generator=seed), torch.randn(3, 2, 5, generator=seed)
    y[2] = y[0]
    scores = clip_scores(z, y)
    loss = clip_loss(scores, torch.tensor([7, 8, 7]))
    own = torch.stack(
        (scores[0, :2].log_softmax(-1)[0], scores[1].log_softmax(-1)[1], scores[2, 1:].log_softmax(-1)[1])
    )
    torch.testing.assert_close(loss, -own.mean())


def test_other_weights_and_sizes_are_refused():
    with pytest.raises(InputError, match="twice a square"):
        SpeechDecodingConfig(position_dim=100)
    with pytest.raises(CheckpointError, match="not the weights of a brain module"):
        SpeechDecoding.from_authors({"encoders.meg.sequence.0.0.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="one encoder"):
        SpeechDecoding.from_authors({"encoders.meg.a": 1, "encoders.eeg.a": 1})
