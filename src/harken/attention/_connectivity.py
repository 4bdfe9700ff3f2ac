"""The cheap guess by which Sparsifiner chooses its pairs (arXiv 2303.13755, section 3.2)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class ConnectivityPredictor(nn.Module):
    """Cheap guess of the attention matrix: few coefficients per query on a few rows that all queries share.

    With ``q' = Q q``, ``k' = K k`` (``head_dim`` to ``reduced_dim``) and ``P``, ``W`` of shape ``(num_tokens, rank)``:
    ``coefficients = softmax(q' (k'^T P) / sqrt(heads))`` and ``guess = coefficients W^T`` (section 3.2 of the paper;
    the scale is the released code's). ``W`` is signed while the guess is trained; to choose keys, its magnitudes up to
    ``basis_threshold`` and all but the largest coefficients are zero.
    """

    def __init__(
        self, heads: int, head_dim: int, num_tokens: int, rank: int, reduced_dim: int, *, tied_basis: bool = False
    ):
        super().__init__()
        self.scale = heads**-0.5
        self.reduce_q = nn.Linear(head_dim, reduced_dim)
        self.reduce_k = nn.Linear(head_dim, reduced_dim)
        self.pool = nn.Parameter(torch.empty(num_tokens, rank))
        self.basis = self.pool if tied_basis else nn.Parameter(torch.empty(num_tokens, rank))
        for table in (self.pool, self.basis):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(
        self,
        q: Float[Tensor, "batch heads queries head_dim"],
        k: Float[Tensor, "batch heads time head_dim"],
        real: Bool[Tensor, "batch time"] | None = None,
        positions: Int[Tensor, "batch time"] | None = None,
    ) -> Float[Tensor, "batch heads queries rank"]:
        """Coefficients of each query."""
        q, k = self.reduce_q(q), self.reduce_k(k)
        if real is not None:
            k = k.masked_fill(~real[:, None, :, None], 0.0)
            q = q.masked_fill(~real[:, None, real.shape[1] - q.shape[2] :, None], 0.0)
        # few numbers decide which keys exist at all: they are worth full precision
        precise = torch.promote_types(q.dtype, torch.float32)
        pool = rows(self.pool, k.shape[2], positions).to(precise)
        return (q.to(precise) @ (k.to(precise).transpose(-1, -2) @ pool) * self.scale).softmax(-1)

    def basis_at(self, time: int, positions: Int[Tensor, "batch time"] | None = None) -> Float[Tensor, "b 1 rank time"]:
        """The signed basis at the keys."""
        basis = rows(self.basis, time, positions).transpose(-1, -2)
        return basis.to(torch.promote_types(basis.dtype, torch.float32))


def rows(table: Tensor, time: int, positions: Tensor | None = None) -> Tensor:
    """A table's rows for ``time`` tokens, ``(#batch, 1, time, rank)``: the first ones, stretched where they are few."""
    if positions is not None:
        return table[positions].unsqueeze(1)
    if time > table.shape[0]:
        table = F.interpolate(table.T[None], time, mode="linear", align_corners=True)[0].T
    return table[None, None, :time]


def in_order(scores: Tensor, *, signed: bool = False) -> Tensor:
    """Integers in the order of ``scores``, the lower position first among equals, so that no two are equal.

    The bits of a float that is not negative order as an integer's do, and minus infinity comes below them all.
    """
    bits = scores.float().view(torch.int32)
    if signed:
        bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # as integers, negative floats run backwards
    return bits.long().mul_(1 << 32).sub_(torch.arange(scores.shape[-1], device=scores.device))
