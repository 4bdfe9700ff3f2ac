"""Flow-Attention against its equations: what flows in flows out, causal or not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.attention import flow
from harken.attention.flow import FlowAttention, FlowForm, _reference, flow_attention, flow_conservation
from harken.errors import CheckpointError, InputError


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 12),
    chunk_size=st.integers(1, 6),
    causal=st.booleans(),
    padded=st.integers(0, 11),
    in_front=st.booleans(),
)
def test_equals_the_equations(time: int, chunk_size: int, causal: bool, padded: int, in_front: bool) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (3 * torch.randn(2, 2, time, d, generator=generator, dtype=torch.float64) for d in (3, 3, 5))
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    mask = mask.flip(1) if in_front else mask
    mixed = flow_attention(q, k, v, causal=causal, mask=mask, query_mask=mask, chunk_size=chunk_size)
    torch.testing.assert_close(mixed, _reference(q, k, v, causal=causal, mask=mask), atol=1e-9, rtol=1e-9)


def test_long_sequences_go_piece_by_piece(monkeypatch: pytest.MonkeyPatch, seed: torch.Generator) -> None:
    monkeypatch.setattr(flow, "SEGMENT", 8)
    q, k, v = (torch.randn(1, 2, 21, 3, generator=seed) for _ in range(3))
    mask = torch.rand(1, 21, generator=seed) > 0.3
    mixed = flow_attention(q, k, v, causal=True, mask=mask, chunk_size=3)
    torch.testing.assert_close(mixed, _reference(q, k, v, causal=True, mask=mask))


def test_gradients_are_those_of_the_equations(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 1, 5, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))
    for causal in (False, True):
        options = {"causal": causal, "chunk_size": 3}
        assert torch.autograd.gradcheck(lambda q, k, v, o=options: flow_attention(q, k, v, **o), (q, k, v))


def test_flow_is_conserved(seed: torch.Generator) -> None:
    q, k = (torch.randn(1, 2, time, 4, generator=seed) for time in (7, 9))
    flows = flow_conservation(q, k)
    pairs = q.sigmoid() @ k.sigmoid().transpose(-1, -2)
    torch.testing.assert_close((pairs / flows.incoming.unsqueeze(-1)).sum(-1), torch.ones(1, 2, 7))
    torch.testing.assert_close((pairs / flows.outgoing.unsqueeze(-2)).sum(-2), torch.ones(1, 2, 9))
    torch.testing.assert_close(flows.competition.sum(-1), torch.full((1, 2), 9.0))


def test_sources_have_no_order(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 7, 4, generator=seed) for _ in range(3))
    order = torch.randperm(7, generator=seed)
    torch.testing.assert_close(flow_attention(q, k[:, :, order], v[:, :, order]), flow_attention(q, k, v))


def test_padded_queries_take_no_share_but_those_of_another_sequence_do(seed: torch.Generator) -> None:
    layer, x = FlowAttention(8, 2).eval(), torch.randn(1, 6, 8, generator=seed)
    mask = torch.tensor([[True] * 4 + [False] * 2])
    torch.testing.assert_close(layer(x, mask=mask)[:, :4], layer(x[:, :4]))
    torch.testing.assert_close(layer(x, x, mask=mask), layer(x, x[:, :4]))


def test_a_stream_holds_what_was_promised() -> None:
    layer = FlowAttention(16, 2, causal=True)
    _, state = layer.step(torch.ones(1, 300, 16), layer.init_state(1))
    d = 8
    assert sum(part[:, 0].numel() for part in state[:-1]) == d * d + 4 * d + 1
    assert state.keys_values.untyped_storage().nbytes() == 2 * d * d * 4  # not a view of all the sums before it


def test_the_clamp_binds_and_can_be_moved(seed: torch.Generator) -> None:
    q, k = (torch.randn(1, 1, 9, 3, generator=seed) for _ in range(2))
    assert flow_conservation(q, k).source.max() <= 1
    assert flow_conservation(q, k, form=FlowForm(clamp=None)).source.max() > 1


def test_a_layer_of_theirs_becomes_one_of_ours(seed: torch.Generator) -> None:
    names = ("query", "key", "value", "out")
    theirs = {f"{name}_projection.{kind}": torch.randn(8, *shape, generator=seed) for name in names
              for kind, shape in (("weight", (8,)), ("bias", ()))}  # fmt: skip
    layer, x = FlowAttention.from_authors(theirs, 2).eval(), torch.randn(1, 5, 8, generator=seed)
    parts = [
        (x @ theirs[f"{n}_projection.weight"].T + theirs[f"{n}_projection.bias"]).view(1, 5, 2, 4).transpose(1, 2)
        for n in names[:3]
    ]
    mixed = flow_attention(*parts).transpose(1, 2).flatten(2)
    expected = mixed @ theirs["out_projection.weight"].T + theirs["out_projection.bias"]
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match="keeps its width"):
        FlowAttention.from_authors(theirs | {"out_projection.weight": torch.zeros(6, 8)}, 2)
    with pytest.raises(CheckpointError, match=r"no parameter query_projection\.weight"):
        FlowAttention.from_authors({}, 2)


@pytest.mark.border
def test_mistakes_get_a_line_each() -> None:
    with pytest.raises(InputError, match="feature='tanh'"):
        FlowAttention(8, 2, feature="tanh")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="lowest, highest"):
        FlowAttention(8, 2, clamp=(1.0, -1.0))
    with pytest.raises(InputError, match="must be positive"):
        FlowAttention(8, 2, eps=0.0)


@pytest.mark.parametrize("causal", [False, True])
def test_without_competition_and_allocation_each_query_takes_one_unit(causal: bool, seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 7, 4, generator=seed) for _ in range(3))
    mask = torch.tensor([[True] * 6 + [False]])
    form = FlowForm(competition=False, allocation=False)
    mixed = flow_attention(q, k, v, causal=causal, mask=mask, query_mask=mask, form=form, chunk_size=3)
    pairs = q.sigmoid() @ k.sigmoid().transpose(-1, -2) * mask[:, None, None]
    pairs = pairs.tril() if causal else pairs
    torch.testing.assert_close(mixed[:, :, :6], (pairs / pairs.sum(-1, keepdim=True) @ v)[:, :, :6])


def test_a_stream_without_competition_and_allocation_equals_the_whole(seed: torch.Generator) -> None:
    layer = FlowAttention(8, 2, causal=True, competition=False, allocation=False)
    x, state = torch.randn(1, 5, 8, generator=seed), layer.init_state(1)
    parts = []
    for part in x.split([2, 1, 1, 1], 1):
        y, state = layer.step(part, state)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), layer(x))
