"""The matrix LSTM: all positions at once are one after another."""

from __future__ import annotations

import torch

from harken.layers.mlstm import ResidualMLstm, mlstm, mlstm_step


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_all_at_once_is_one_after_another():
    q, k, v = (normal(2, 3, 9, 4, seed=s) for s in range(3))
    into, forget = normal(2, 3, 9, seed=4) * 5, normal(2, 3, 9, seed=5) * 3
    state, made = None, []
    for t in range(9):
        y, state = mlstm_step(q[:, :, t], k[:, :, t], v[:, :, t], into[:, :, t], forget[:, :, t], state)
        made.append(y)
    torch.testing.assert_close(mlstm(q, k, v, into, forget), torch.stack(made, 2), atol=1e-5, rtol=1e-4)


def test_large_gates_do_not_overflow():
    q = normal(1, 1, 6, 4).float()
    assert mlstm(q, q, q, torch.full((1, 1, 6), 200.0), torch.full((1, 1, 6), -200.0)).isfinite().all()


def test_it_is_causal():
    torch.manual_seed(0)
    layer, x = ResidualMLstm(8, expand=2).eval(), normal(1, 12, 8).float()
    changed = x.clone()
    changed[:, 7:] += 1
    torch.testing.assert_close(layer(x)[:, :7], layer(changed)[:, :7])


def test_gradients_are_finite():
    torch.manual_seed(0)
    layer = ResidualMLstm(8, expand=2)
    layer(normal(2, 12, 8).float()).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())
