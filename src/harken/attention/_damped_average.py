"""MEGA's moving average, the structured memory of LongVQ (arXiv 2209.10655)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from harken.attention._base import precise

_CHUNK = 64  # positions that meet directly


class DampedAverage(nn.Module):
    """MEGA's multi-dimensional damped moving average, the structured memory (arXiv 2209.10655, section 3.1).

    Per channel ``size`` averages ``h_t = p beta x_t + (1 - p a) h_{t-1}``, ``p, a = sigmoid(delta), sigmoid(alpha)``,
    and ``y_t = silu(gamma . h_t / sqrt(size) + omega x_t)``. Bidirectional: a second set runs from the end, and both
    include ``x_t``. Chunk by chunk, by products with the kernel inside a chunk and the averages between chunks: exact
    where a Fourier transform would smear rounding errors over past and future.

    >>> y, state = DampedAverage(dim=8, size=4)(torch.randn(2, 100, 8))
    >>> y.shape, state.shape
    (torch.Size([2, 100, 8]), torch.Size([2, 8, 4]))
    """

    def __init__(self, dim: int, size: int = 16, *, bidirectional: bool = False):
        super().__init__()
        self.size, self.bidirectional = size, bidirectional
        channels = 2 * dim if bidirectional else dim
        self.delta, self.alpha, self.beta, self.gamma = (nn.Parameter(torch.randn(channels, size)) for _ in range(4))
        self.omega = nn.Parameter(torch.randn(dim))
        with torch.no_grad():
            self.delta.mul_(0.2)
            self.alpha.mul_(0.2)
            self.beta.mul_(0.02).add_(1 - 2 * (torch.arange(size) % 2))

    @classmethod
    def from_authors(cls, state_dict: Mapping[str, Tensor], *, bidirectional: bool) -> DampedAverage:
        """MEGA's ``MultiHeadEMA``."""
        weights = {name: w.squeeze(-1) if w.ndim == 3 else w for name, w in state_dict.items()}
        average = cls(weights["omega"].shape[0], weights["gamma"].shape[1], bidirectional=bidirectional)
        average.load_state_dict(weights)
        return average

    def forward(
        self, x: Float[Tensor, "batch time dim"], state: Float[Tensor, "batch dim size"] | None = None
    ) -> tuple[Float[Tensor, "batch time dim"], Float[Tensor, "batch dim size"]]:
        """The averages of ``x`` after ``state``, and the state after them (of the forward direction)."""
        dim = x.shape[-1]
        p = precise(self.delta).sigmoid()
        log_decay = torch.log1p(-p * precise(self.alpha).sigmoid())
        into, out = p * precise(self.beta), precise(self.gamma) * self.size**-0.5
        y, after = _scan(precise(x), log_decay[:dim], into[:dim], out[:dim], state)
        if self.bidirectional:
            back, _ = _scan(precise(x).flip(1), log_decay[dim:], into[dim:], out[dim:], None)
            y = y + back.flip(1)
        return F.silu(y.to(x.dtype) + self.omega * x), after

    def flops(self, batch: int, time: int) -> int:
        """Of one call without a state."""
        size, channels = min(_CHUNK, time), self.delta.shape[0]
        chunks = -(-time // size)
        inside = 2 * batch * channels * chunks * size * (size + (2 * self.size if chunks > 1 else 0))
        return inside + 2 * batch * channels * self.size * (time - (chunks - 1) * size)


def _scan(x: Tensor, log_decay: Tensor, into: Tensor, out: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    """``h_t = decay h_{t-1} + into x_t`` and ``y_t = out . h_t``, with the last ``h``."""
    batch, time, dim = x.shape
    if time == 1 and state is not None:
        state = torch.addcmul(into * x.transpose(1, 2), log_decay.exp(), state)
        return (state * out).sum(-1).unsqueeze(1), state
    size = min(_CHUNK, time)
    chunks = -(-time // size)
    last = time - (chunks - 1) * size
    steps = torch.arange(size, device=x.device)
    powers = (log_decay.unsqueeze(-1) * steps).exp()  # (dim, size of memory, lag)
    kernel = ((into * out).unsqueeze(-1) * powers).sum(1)
    inside = F.pad(kernel, (size - 1, 0)).unfold(-1, size, 1).flip(-1)  # [i, j] is the kernel at lag i - j
    enters = (into.unsqueeze(-1) * powers).mT  # (dim, lag, size of memory)
    x = F.pad(x, (0, 0, 0, chunks * size - time)).view(batch * chunks, size, dim).permute(2, 0, 1).contiguous()
    y = x @ inside.mT
    ends = x.view(dim, batch, chunks, size)[:, :, -1, :last] @ enters[:, :last].flip(1)
    final = ends.transpose(0, 1)
    if chunks > 1 or state is not None:
        sums = (x @ enters.flip(1)).view(dim, batch, chunks, -1).transpose(0, 1)  # (batch, dim, chunk, memory)
        whole = (log_decay * size).exp()
        now = torch.zeros_like(sums[:, :, 0]) if state is None else precise(state)
        before = []
        for entering in sums.unbind(2):  # the gradient of a selection each would be as large as all of them
            before.append(now)
            now = torch.addcmul(entering, whole, now)
        leaves = out.unsqueeze(-1) * powers * log_decay.exp().unsqueeze(-1)
        y = y + torch.stack(before, 2).transpose(0, 1).reshape(dim, batch * chunks, -1) @ leaves
        final = final + (log_decay * last).exp() * before[-1]
    return y.permute(1, 2, 0).reshape(batch, chunks * size, dim)[:, :time], final
