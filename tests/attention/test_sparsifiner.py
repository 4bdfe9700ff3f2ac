"""Sparsifiner against its description query by query, its budgets, and that all its paths are one."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harken.attention import sparsifiner
from harken.attention._connectivity import in_order, rows
from harken.attention.softmax import softmax_weights
from harken.attention.sparsifiner import Pruned, SparsifinerAttention, _reference
from harken.errors import CheckpointError, InputError
from harken.observation import observe


def layer(**options: object) -> SparsifinerAttention:
    """With a basis of large entries, so that the guesses of different queries differ."""
    torch.manual_seed(0)
    attention = SparsifinerAttention(16, 2, **{"num_tokens": 14, "rank": 6, "coefficients": 3, **options}).double()
    for table in (attention.predictor.pool, attention.predictor.basis):
        torch.nn.init.normal_(table)
    return attention.eval()


def tokens(time: int = 14, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, time, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("block_size", [1, 3])
@pytest.mark.parametrize("class_token", [True, False])
@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_equals_the_description(block_size, class_token, masked):
    attention = layer(block_size=block_size, class_token=class_token, keep=0.3)
    q, k, v = attention.project(tokens())
    mask = torch.rand(2, 14, generator=torch.Generator().manual_seed(2)) > 0.3 if masked else torch.ones(2, 14) > 0
    given = mask if masked else None
    mixed = attention.mix(q, k, v, given).transpose(1, 2)[mask]
    plain = _reference(attention, q, k, v, given, block_size).transpose(1, 2)[mask]
    torch.testing.assert_close(mixed, plain)
    torch.testing.assert_close((attention.mix_weights(q, k, given) @ v).transpose(1, 2)[mask], mixed)


def test_all_keys_kept_is_dense_attention():
    attention, x = layer(keep=1.0), tokens()
    q, k, _ = attention.project(x)
    torch.testing.assert_close(attention.weights(x), softmax_weights(q, k))


@pytest.mark.parametrize(("keep", "time"), [(0.25, 14), (0.1, 14), (0.5, 7)])
def test_every_patch_has_its_budget_and_the_class_token_all(keep, time):
    attention = layer(keep=keep)
    q, k, _ = attention.project(tokens(time))
    number = attention.connectivity(q, k).sum(-1)
    assert number[:, :, 0].unique().tolist() == [time]
    assert number[:, :, 1:].unique().tolist() == [math.ceil(keep * time)]


def test_equals_go_to_the_lower_position():
    attention = layer(keep=0.25)
    torch.nn.init.zeros_(attention.predictor.basis)  # every guess is 0
    q, k, _ = attention.project(tokens())
    assert attention.connectivity(q, k)[0, 0, 5].nonzero().flatten().tolist() == [0, 1, 2, 3]


def test_the_order_of_integers_is_that_of_the_guesses():
    scores = torch.tensor([0.0, -1.5, 2.0, -0.25, -math.inf, 2.0, 1e-30])
    positive = torch.tensor([0.0, 2.0, -math.inf, 2.0, 1e-30])
    assert in_order(positive).argsort(descending=True).tolist() == [1, 3, 4, 0, 2]
    assert in_order(scores, signed=True).argsort(descending=True).tolist() == [2, 5, 6, 0, 3, 1, 4]


def test_other_images_have_no_say():
    attention, x = layer(), tokens()
    q, k, _ = attention.project(x)
    alone = attention.connectivity(q[1:], k[1:])
    assert torch.equal(attention.connectivity(q, k)[1:], alone)


def test_groups_of_blocks_change_nothing(monkeypatch):
    attention, x = layer(block_size=2, keep=0.4), tokens()
    whole = attention(x)
    monkeypatch.setattr(sparsifiner, "_GATHERED", 1)
    torch.testing.assert_close(attention(x), whole)


@pytest.mark.parametrize("options", [{"block_size": 3}, {"stage": "reconstruct"}, {"class_token": False}])
def test_the_cost_of_every_path_is_what_a_counter_counts(options):
    attention, x = layer(**options), tokens()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        attention(x)
    assert attention.cost(2, 14).flops == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_a_longer_sequence_stretches_the_tables():
    attention = layer()
    stretched = rows(attention.predictor.pool, 27)[0, 0]
    torch.testing.assert_close(stretched[::2], attention.predictor.pool)
    assert attention(tokens(27)).isfinite().all()


def test_only_the_predictor_learns_from_the_loss():
    attention, x = layer().train(), tokens().requires_grad_()
    with observe(attention, "loss") as seen:
        attention(x)
    seen.total().backward()
    assert x.grad is None
    for name, parameter in attention.named_parameters():
        assert (parameter.grad is not None) == name.startswith("predictor."), name


def test_the_loss_falls_when_the_predictor_learns():
    attention, x = layer().train(), tokens()
    optimizer = torch.optim.Adam(attention.predictor.parameters(), 0.1)
    q, k, _ = (part.detach() for part in attention.project(x))
    first = attention.reconstruction_error(q, k)
    for _ in range(20):
        optimizer.zero_grad()
        error = attention.reconstruction_error(q, k)
        error.backward()
        optimizer.step()
    assert error < 0.5 * first


def test_the_reconstruction_stage_attends_to_everything():
    attention, x = layer(stage="reconstruct"), tokens()
    q, k, _ = attention.project(x)
    torch.testing.assert_close(attention.weights(x), softmax_weights(q, k))


def test_removed_tokens_are_masked_tokens():
    attention, x = layer(keep=0.4), tokens()
    left = torch.tensor([[0, 1, 4, 5, 8, 9, 12], [0, 2, 3, 6, 7, 10, 13]])
    mask = torch.zeros(2, 14, dtype=torch.bool).scatter(1, left, True)
    few = x.gather(1, left[..., None].expand(-1, -1, 16))
    for zeroed in (0, 7):
        y = attention(few, pruned=Pruned(left, 14, zeroed))
        whole = attention(x, mask=mask, pruned=Pruned(None, 14, zeroed))
        torch.testing.assert_close(y, whole.gather(1, left[..., None].expand(-1, -1, 16)))


def test_weights_of_another_layer_are_refused():
    with pytest.raises(CheckpointError, match="Sparsifiner"):
        SparsifinerAttention.from_authors({"proj.weight": torch.zeros(3, 3)}, heads=1)


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "share in"),
        ({"rank": 0}, "at least 1"),
        ({"score_threshold": 0.1, "block_size": 2}, "block_size=1"),
        ({"stage": "dense"}, "'sparse' or 'reconstruct'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        SparsifinerAttention(16, 2, **options)
