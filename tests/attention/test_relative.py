"""Relative attention against its definition, its local form through the whole battery, and its memory."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.attention import Capabilities
from harken.attention.relative import RelativeAttention, _reference, relative_attention, skew
from harken.errors import CapabilityError, InputError
from tests.attention.kit import Check, Subject, battery


class Local(RelativeAttention):
    """The local form as the battery builds it: blocks of four."""

    capabilities: ClassVar[Capabilities] = Capabilities(cross=False, bidirectional=False)

    def __init__(self, dim: int, heads: int, *, causal: bool = False, chunk_size: int = 2):
        super().__init__(dim, heads, causal=causal, block_size=4 if causal else None, chunk_size=3)


class Short(RelativeAttention):
    """A table that ends before the sequences do."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False, chunk_size: int = 4):
        super().__init__(dim, heads, causal=causal, max_relative_position=3, share_heads=True, chunk_size=chunk_size)


@pytest.mark.parametrize(
    ("check", "subject"),
    [parameter for form in (Local, Short) for parameter in battery(form) if pytest.mark.border not in parameter.marks],
)
def test_contract(check: Check, subject: Subject) -> None:
    check(subject)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    time=st.integers(1, 13),
    rows=st.integers(1, 15),
    causal=st.booleans(),
    block_size=st.sampled_from((None, 1, 2, 5)),
    chunk_size=st.integers(1, 6),
    padded=st.integers(0, 12),
    shared=st.booleans(),
    values=st.booleans(),
)
def test_equals_the_definition(
    time: int,
    rows: int,
    causal: bool,
    block_size: int | None,
    chunk_size: int,
    padded: int,
    shared: bool,
    values: bool,
) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, d, generator=generator, dtype=torch.float64) for d in (3, 3, 5))
    shape = (rows if causal else 2 * rows - 1,) if shared else (2, rows if causal else 2 * rows - 1)
    tables = [torch.randn(*shape, d, generator=generator, dtype=torch.float64) for d in (3, 5)]
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    options = {"causal": causal, "mask": mask, "block_size": block_size if causal else None}
    mixed = relative_attention(q, k, v, tables[0], tables[1] if values else None, chunk_size=chunk_size, **options)
    expected = _reference(q, k, v, tables[0], tables[1] if values else None, **options)
    torch.testing.assert_close(mixed, expected, atol=1e-10, rtol=1e-10)


def test_gradients_are_those_of_the_definition(seed: torch.Generator) -> None:
    q, k, v = (torch.randn(1, 2, 6, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(3))
    tables = [torch.randn(2, 4, 2, generator=seed, dtype=torch.float64).requires_grad_() for _ in range(2)]

    def mixed(*inputs: torch.Tensor) -> torch.Tensor:
        return relative_attention(*inputs, chunk_size=4)

    assert torch.autograd.gradcheck(mixed, (q, k, v, *tables))


def test_skewing_is_a_view_that_finds_each_distance() -> None:
    distances = torch.arange(5.0, -2.0, -1.0).expand(3, 7).contiguous()  # for queries 3, 4 and 5
    skewed = skew(distances)
    assert skewed.data_ptr() == distances[0, 2:].data_ptr()
    for i in range(3):
        assert skewed[i, : 4 + i].tolist() == [3 + i - j for j in range(4 + i)]


def test_local_is_global_below_two_blocks(seed: torch.Generator) -> None:
    q, k, v, table = (torch.randn(1, 2, 7, 4, generator=seed) for _ in range(4))
    local = relative_attention(q, k, v, table[0], block_size=4)
    torch.testing.assert_close(local, relative_attention(q, k, v, table[0]))


def test_what_is_far_from_both_ends_does_not_know_where_it_is(seed: torch.Generator) -> None:
    """Shift a sequence of distances: nothing but distances counts."""
    q, k, v = (torch.randn(1, 1, 6, 4, generator=seed) for _ in range(3))
    table = torch.randn(5, 4, generator=seed)
    early = relative_attention(q, k, v, table)
    shifted = [torch.cat((torch.randn(1, 1, 9, 4, generator=seed), part), 2) for part in (q, k, v)]
    mask = torch.arange(15)[None] >= 9
    torch.testing.assert_close(relative_attention(*shifted, table, mask=mask)[:, :, 9:], early)


def test_a_local_stream_forgets_all_but_two_blocks() -> None:
    layer = RelativeAttention(8, 2, causal=True, block_size=4).eval()
    _, state = layer.step(torch.ones(1, 30, 8), layer.init_state(1))
    assert state.keys.shape[2] == 6  # the block before, and two positions of its own
    for _ in range(200):
        with torch.no_grad():
            _, state = layer.step(torch.ones(1, 1, 8), state)
    assert state.keys.untyped_storage().nbytes() <= 64 * 8 * 4  # what is forgotten is freed


@pytest.mark.parametrize("block_size", [None, 16])
def test_memory_grows_no_faster_than_the_sequence(block_size: int | None) -> None:
    from tests.attention.test_linear import _Largest

    layer = RelativeAttention(8, 1, causal=True, block_size=block_size, chunk_size=16)
    for time in (256, 512):
        with _Largest() as largest, torch.no_grad():
            layer(torch.ones(1, time, 8))
        assert largest.elements <= 24 * time + 1024


def test_weights_of_the_authors_go_where_they_belong(seed: torch.Generator) -> None:
    names = ("q/kernel", "k/kernel", "v/kernel", "output_transform/kernel")
    theirs = {f"decoder/multihead_attention/{name}": torch.randn(8, 8, generator=seed) for name in names}
    theirs["decoder/multihead_attention/dot/key_relative_embeddings"] = torch.randn(2, 5, 4, generator=seed)
    layer = RelativeAttention.from_authors(theirs, heads=2)
    x = torch.randn(1, 7, 8, generator=seed)
    q, k, v = ((x @ kernel).unflatten(-1, (2, 4)).transpose(1, 2) for kernel in list(theirs.values())[:3])
    mixed = _reference(q, k, v, list(theirs.values())[4])
    torch.testing.assert_close(layer(x), mixed.transpose(1, 2).flatten(2) @ list(theirs.values())[3])
    with pytest.raises(InputError, match="ends in q/kernel"):
        RelativeAttention.from_authors({"x": x}, heads=2)


def test_wrong_options_get_a_line() -> None:
    with pytest.raises(CapabilityError, match="causal only"):
        RelativeAttention(8, 2, block_size=4)
    with pytest.raises(InputError, match="max_relative_position=0 must be at least 1"):
        RelativeAttention(8, 2, causal=True, max_relative_position=0)
