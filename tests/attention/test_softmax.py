"""Softmax attention against its textbook form and against PyTorch's own layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import nn

from harken.attention import create_attention
from harken.attention.softmax import SoftmaxAttention, _reference, allowed_pairs, softmax_weights


@settings(max_examples=20, deadline=None, derandomize=True)
@given(time=st.integers(1, 12), head_dim=st.sampled_from((1, 4, 7)), causal=st.booleans(), padded=st.integers(0, 11))
def test_equals_the_textbook(time: int, head_dim: int, causal: bool, padded: int) -> None:
    generator = torch.Generator().manual_seed(time)
    q, k, v = (torch.randn(2, 2, time, head_dim, generator=generator) for _ in range(3))
    mask = torch.arange(time) < torch.tensor([[time], [max(1, time - padded)]])
    layer = SoftmaxAttention(2 * head_dim, 2, causal=causal)
    torch.testing.assert_close(layer.mix(q, k, v, mask), _reference(q, k, v, causal=causal, mask=mask))
    torch.testing.assert_close(layer.mix(q, k, v, None), _reference(q, k, v, causal=causal))


def test_weights_of_multihead_attention_load_as_they_are(seed: torch.Generator) -> None:
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(theirs.in_proj_bias, generator=seed)
    ours = create_attention("softmax", dim=16, heads=4)
    ours.load_state_dict({key.replace("in_proj_", "in_proj."): value for key, value in theirs.state_dict().items()})
    x, context = torch.randn(2, 7, 16, generator=seed), torch.randn(2, 5, 16, generator=seed)
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    y, weights = theirs(x, x, x, key_padding_mask=~mask, average_attn_weights=False)
    torch.testing.assert_close(ours(x, mask=mask), y)
    torch.testing.assert_close(ours.weights(x, mask=mask), weights)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context)[0])


def test_starts_from_the_distribution_of_multihead_attention() -> None:
    torch.manual_seed(3)
    theirs = nn.MultiheadAttention(64, 4, batch_first=True)
    ours = create_attention("softmax", dim=64, heads=4)
    assert ours.in_proj.weight.std().item() == pytest.approx(theirs.in_proj_weight.std().item(), rel=0.05)
    assert ours.out_proj.weight.std().item() == pytest.approx(theirs.out_proj.weight.std().item(), rel=0.05)
    assert not ours.in_proj.bias.any() and not ours.out_proj.bias.any()


def test_a_row_with_nothing_allowed_is_zero_with_a_gradient_of_zero(seed: torch.Generator) -> None:
    q, k = (torch.randn(1, 1, 3, 4, generator=seed).requires_grad_() for _ in range(2))
    weights = softmax_weights(q, k, allowed_pairs(q, k, causal=True, mask=torch.tensor([[False, True, True]])))
    assert not weights[0, 0, 0].any()
    weights.square().sum().backward()
    assert q.grad is not None and not q.grad[0, 0, 0].any() and q.grad.isfinite().all()


def test_signatures_are_checked_while_testing() -> None:
    """If this fails, harken was imported before tests/conftest.py put its checks in place."""
    with pytest.raises(TypeCheckError):
        softmax_weights(torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 5))


def test_a_llama_layer_loads_as_it_is(seed: torch.Generator) -> None:
    """Shared key heads and rotary positions, written out."""
    dim, heads, kv_heads, head_dim, time = 16, 4, 2, 4, 7
    theirs = {
        f"{name}_proj.weight": torch.randn(*shape, generator=seed) / 4
        for name, shape in (("q", (16, dim)), ("k", (8, dim)), ("v", (8, dim)), ("o", (dim, 16)))
    }
    layer = SoftmaxAttention.from_authors(theirs, heads=heads, causal=True, rotary_base=10000.0)
    x = torch.randn(1, time, dim, generator=seed)
    q, k, v = ((x @ theirs[f"{name}_proj.weight"].T).unflatten(-1, (-1, head_dim)).transpose(1, 2) for name in "qkv")
    angles = torch.arange(time)[:, None] * torch.tensor([1.0, 0.01])
    cos, sin = (part.repeat(1, 2) for part in (angles.cos(), angles.sin()))
    q, k = (part * cos + torch.cat((-part[..., 2:], part[..., :2]), -1) * sin for part in (q, k))
    k, v = (part.repeat_interleave(heads // kv_heads, 1) for part in (k, v))
    expected = _reference(q, k, v, causal=True).transpose(1, 2).flatten(2) @ theirs["o_proj.weight"].T
    torch.testing.assert_close(layer(x), expected)
    first, state = layer.step(x[:, :3], layer.init_state(1))
    last, _ = layer.step(x[:, 3:], state)
    torch.testing.assert_close(torch.cat((first, last), 1), expected)
    assert layer.cost(1, time).flops == 2 * time * 16 * (32 + 16) + 4 * time * time * 16
