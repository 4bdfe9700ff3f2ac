"""The matrix LSTM of xLSTM (arXiv 2405.04517), in the block that vision and speech models use (2406.04303)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_GUARD = 1e-6
_BLOCK = 4  # channels that a block-diagonal projection mixes


class MLstmState(NamedTuple):
    """What a stream of :func:`mlstm` carries.

    Shape:
        - memory: ``(rows, heads, dim, dim)``
        - total: ``(rows, heads, dim)``
        - largest: ``(rows, heads)``, the logarithm by which both are scaled down
    """

    memory: Tensor
    total: Tensor
    largest: Tensor


def mlstm(
    q: Float[Tensor, "rows heads length dim"],
    k: Float[Tensor, "rows heads length dim"],
    v: Float[Tensor, "rows heads length dim"],
    into: Float[Tensor, "rows heads length"],
    forget: Float[Tensor, "rows heads length"],
) -> Float[Tensor, "rows heads length dim"]:
    """An LSTM whose memory is a matrix and whose input gate is an exponential, for all positions at once::

        D_ts = sum_{s < j <= t} log sigmoid(forget_j) + into_s      m_t = max_s D_ts
        S_ts = q_t . k_s / sqrt(dim) exp(D_ts - m_t)                 s <= t
        h_t  = sum_s S_ts v_s / (max(|sum_s S_ts|, exp(-m_t)) + 1e-6)

    >>> q = k = v = torch.ones(1, 1, 3, 4)
    >>> mlstm(q, k, v, torch.zeros(1, 1, 3), torch.zeros(1, 1, 3))[0, 0, :, 0]
    tensor([1.0000, 1.0000, 1.0000])
    """
    dtype, length = v.dtype, q.shape[2]
    into, log_forget = into.float(), F.logsigmoid(forget.float())
    so_far = log_forget.cumsum(-1)
    decay = so_far.unsqueeze(-1) - so_far.unsqueeze(-2) + into.unsqueeze(-2)
    ahead = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
    decay = decay.masked_fill(ahead, -torch.inf)
    largest = decay.amax(-1, keepdim=True)
    scores = (q.float() @ k.float().mT) * q.shape[-1] ** -0.5 * (decay - largest).exp()
    total = torch.maximum(scores.sum(-1, keepdim=True).abs(), (-largest).exp())
    return (scores / (total + _GUARD) @ v.float()).to(dtype)


def mlstm_step(
    q: Float[Tensor, "rows heads dim"],
    k: Float[Tensor, "rows heads dim"],
    v: Float[Tensor, "rows heads dim"],
    into: Float[Tensor, "rows heads"],
    forget: Float[Tensor, "rows heads"],
    state: MLstmState | None = None,
) -> tuple[Float[Tensor, "rows heads dim"], MLstmState]:
    """One position of :func:`mlstm`, with a state of constant size."""
    if state is None:
        nothing = q.new_zeros(*q.shape, q.shape[-1])
        state = MLstmState(nothing, nothing[..., 0], torch.full_like(into, -torch.inf))
    kept = F.logsigmoid(forget) + state.largest
    largest = torch.maximum(kept, into)
    keep, write = (kept - largest).exp(), (into - largest).exp()
    k = k * q.shape[-1] ** -0.5
    memory = keep[..., None, None] * state.memory + (write[..., None] * k)[..., None] * v[..., None, :]
    total = keep[..., None] * state.total + write[..., None] * k
    size = torch.maximum((q * total).sum(-1).abs(), (-largest).exp()) + _GUARD
    return (q.unsqueeze(-2) @ memory).squeeze(-2) / size[..., None], MLstmState(memory, total, largest)


class OffsetNorm(nn.LayerNorm):
    """Layer norm whose gain is kept as its distance from one, over all channels or over those of each head."""

    def __init__(self, dim: int, heads: int = 1):
        super().__init__(dim)
        self.heads = heads
        nn.init.zeros_(self.weight)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        parts = x.unflatten(-1, (self.heads, -1))
        return F.layer_norm(parts, parts.shape[-1:], eps=self.eps).flatten(-2) * (1 + self.weight) + self.bias


class BlockDiagonal(nn.Module):
    """A linear layer that mixes four channels at a time."""

    def __init__(self, dim: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim // _BLOCK, _BLOCK, _BLOCK).normal_(std=(0.4 / _BLOCK) ** 0.5))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        return torch.einsum("...gi,goi->...go", x.unflatten(-1, (-1, _BLOCK)), self.weight).flatten(-2) + self.bias


class ResidualMLstm(nn.Module):
    """``x + layer(norm(x))``: up, short convolution, matrix LSTM, gate, down.

    Args:
        dim: channels; ``expand * dim`` must be a multiple of 4 and of ``heads``.
        expand: the LSTM has ``expand * dim`` channels.
        heads: matrices.
        kernel: positions that the convolution sees.
    """

    def __init__(self, dim: int, *, expand: int = 4, heads: int = 4, kernel: int = 4):
        super().__init__()
        inner = expand * dim
        self.heads, self.past = heads, kernel - 1
        self.norm = OffsetNorm(dim)
        self.up = nn.Linear(dim, 2 * inner)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.q_proj, self.k_proj, self.v_proj = (BlockDiagonal(inner) for _ in range(3))
        self.into, self.forget = nn.Linear(3 * inner, heads), nn.Linear(3 * inner, heads)
        self.out_norm = OffsetNorm(inner, heads)
        self.skip = nn.Parameter(torch.ones(inner))
        self.down = nn.Linear(inner, dim)
        for gate in (self.into, self.forget):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.into.bias, std=0.1)
        with torch.no_grad():
            self.forget.bias.copy_(torch.linspace(3, 6, heads))

    def cell(
        self, q: Float[Tensor, "rows length inner"], k: Float[Tensor, "rows length inner"], v: Tensor
    ) -> Float[Tensor, "rows length inner"]:
        """The matrix LSTM with its gates, which see queries, keys and values, and its norm."""
        gates = torch.cat((q, k, v), -1)
        into, forget = self.into(gates).transpose(1, 2), self.forget(gates).transpose(1, 2)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        return self.out_norm(mlstm(q, k, v, into, forget).transpose(1, 2).flatten(2))

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        u, z = self.up(self.norm(x)).chunk(2, -1)
        a = F.silu(self.conv(F.pad(u.mT, (self.past, 0))).mT)
        h = self.cell(self.q_proj(a), self.k_proj(a), self.v_proj(u)) + self.skip * a
        return x + self.down(h * F.silu(z))
