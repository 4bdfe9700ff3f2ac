"""Mamba: a sequence through a gated selective scan, one way or both (arXiv 2312.00752)."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.layers.selective_scan import selective_scan

_SLOWEST, _FASTEST, _LEAST = 1e-3, 0.1, 1e-4  # step sizes at the start


class MambaState(NamedTuple):
    """What a stream carries.

    Shape:
        - inputs: ``(rows, kernel - 1, inner)``, the last ones of the convolution
        - scan: ``(rows, inner, states)``
    """

    inputs: Tensor
    scan: Tensor


class Mamba(nn.Module):
    """A causal mixer: project up, short convolution, selective scan, gate, project down.

    ::

        u, z = W_in x    u = silu(conv(u))    step, b, c = W_x u    delta = softplus(W_step step + bias)
        y = W_out (scan(u, delta, -exp(log_a), b, c, d) * silu(z))

    Args:
        dim: channels in and out.
        expand: the scan has ``expand * dim`` channels.
        states: of each channel.
        kernel: positions that the convolution sees.
        step_rank: numbers from which a position's step sizes are made; ``ceil(dim / 16)`` when None.

    >>> layer = Mamba(8, states=4).eval()
    >>> x = torch.randn(2, 10, 8)
    >>> y, state = layer.step(x[:, :6], layer.init_state(2))
    >>> torch.allclose(torch.cat((y, layer.step(x[:, 6:], state)[0]), 1), layer(x), atol=1e-6)
    True
    """

    def __init__(self, dim: int, *, expand: int = 2, states: int = 16, kernel: int = 4, step_rank: int | None = None):
        super().__init__()
        inner, rank = expand * dim, step_rank or math.ceil(dim / 16)
        self.states, self.rank = states, rank
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner)
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.step_proj = nn.Linear(rank, inner)
        self.log_a = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.d = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, dim, bias=False)
        nn.init.uniform_(self.step_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            log_step = torch.empty(inner).uniform_(math.log(_SLOWEST), math.log(_FASTEST))
            step = log_step.exp().clamp_min(_LEAST)
            self.step_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus of it is the step

    def init_state(self, rows: int) -> MambaState:
        """Before the first position."""
        weight = self.in_proj.weight
        inner = len(self.d)
        return MambaState(
            weight.new_zeros(rows, self.conv.kernel_size[0] - 1, inner), weight.new_zeros(rows, inner, self.states)
        )

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        return self.step(x, self.init_state(x.shape[0]))[0]

    def step(
        self, x: Float[Tensor, "rows length dim"], state: MambaState
    ) -> tuple[Float[Tensor, "rows length dim"], MambaState]:
        """The next positions, one or many, and the state after them."""
        u, z = self.in_proj(x).chunk(2, -1)
        seen = torch.cat((state.inputs.to(u.dtype), u), 1)
        u = F.silu(self._convolve(seen))
        step, b, c = self.x_proj(u).split((self.rank, self.states, self.states), -1)
        delta = F.softplus(self.step_proj(step))
        y, scan = selective_scan(u, delta, -self.log_a.exp(), b, c, self.d, state=state.scan)
        kept = seen[:, seen.shape[1] - state.inputs.shape[1] :]
        return self.out_proj(y * F.silu(z)), MambaState(kept, scan)

    def _convolve(self, seen: Tensor) -> Tensor:
        """The depthwise convolution, of an image of height 1 with channels last: the layout in which it is quick."""
        image = seen.mT.unsqueeze(2)
        made = F.conv2d(image, self.conv.weight.unsqueeze(2), self.conv.bias, groups=len(self.d))
        return made.squeeze(2).mT


class ResidualMamba(nn.Module):
    """``x + mamba(rms_norm(x))``."""

    def __init__(self, dim: int, *, expand: int = 2, states: int = 16, kernel: int = 4, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=eps)
        self.mixer = Mamba(dim, expand=expand, states=states, kernel=kernel)

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length dim"]:
        return x + self.mixer(self.norm(x))


class BothWays(nn.Module):
    """A causal layer along a sequence and another against it, side by side: ``dim`` to ``2 dim`` channels."""

    def __init__(self, forwards: nn.Module, backwards: nn.Module):
        super().__init__()
        self.forwards, self.backwards = forwards, backwards

    def forward(self, x: Float[Tensor, "rows length dim"]) -> Float[Tensor, "rows length 2*dim"]:
        return torch.cat((self.forwards(x), self.backwards(x.flip(1)).flip(1)), -1)
