"""The selective scan of Mamba on a CPU: a linear recurrence whose decay, input and output follow the sequence."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

_TILE = 1 << 18  # numbers in the state of the rows that advance together: what a core's cache holds
_STRETCH = 16  # training keeps every sixteenth state and computes the others again


def selective_scan(
    u: Float[Tensor, "rows length channels"],
    delta: Float[Tensor, "rows length channels"],
    a: Float[Tensor, "channels states"],
    b: Float[Tensor, "rows length states"],
    c: Float[Tensor, "rows length states"],
    d: Float[Tensor, " channels"] | None = None,
    *,
    state: Float[Tensor, "rows channels states"] | None = None,
) -> tuple[Float[Tensor, "rows length channels"], Float[Tensor, "rows channels states"]]:
    """``h_t = exp(delta_t a) h_{t-1} + delta_t u_t b_t`` and ``y_t = h_t . c_t + d u_t`` (arXiv 2312.00752, section 3).

    One position after another, a few rows at a time so that their state stays in the cache; nothing of the size
    ``rows x length x channels x states`` is ever held, in training neither: the gradient computes stretches of states
    again from those that were kept.

    Args:
        u: what enters.
        delta: step sizes, not negative.
        a: rates, negative for a memory that fades.
        b, c: how each position writes to the states, and reads them.
        d: share of ``u`` that goes straight through.
        state: after an earlier stretch; zero when None.

    Returns:
        ``y``, and the state after the last position, with which the next stretch goes on. The scan of a whole is that
        of its parts.

    Raises:
        InputError: shapes that do not belong together.

    >>> u, b, c = torch.ones(1, 3, 1), torch.ones(1, 3, 1), torch.ones(1, 3, 1)
    >>> selective_scan(u, torch.ones(1, 3, 1), torch.tensor([[-0.6931472]]), b, c)[0].flatten()
    tensor([1.0000, 1.5000, 1.7500])
    """
    rows, length, channels = u.shape
    states = a.shape[-1]
    shapes = {"delta": delta, "a": a, "b": b, "c": c}
    expected = {
        "delta": (rows, length, channels),
        "a": (channels, states),
        "b": (rows, length, states),
        "c": (rows, length, states),
    }
    for name, tensor in shapes.items():
        if tuple(tensor.shape) != expected[name]:
            raise InputError(f"expected {name} of shape {expected[name]}, got {tuple(tensor.shape)}")
    if state is None:
        state = u.new_zeros(rows, channels, states)
    elif tuple(state.shape) != (rows, channels, states):
        raise InputError(f"expected a state of shape {(rows, channels, states)}, got {tuple(state.shape)}")
    y, after = _Scan.apply(u, delta, a, b, c, state)
    return (y if d is None else torch.addcmul(y, u, d)), after


class _Scan(torch.autograd.Function):
    """The recurrence with states ``(rows, states, channels)``: the longest axis last, which is what vectors want."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> Any:
        rows, length, channels = u.shape
        dtype = torch.promote_types(u.dtype, torch.float32)
        rates = a.to(dtype).mT.contiguous()
        keep = any(ctx.needs_input_grad)
        kept = u.new_empty(-(-length // _STRETCH) if keep else 0, rows, *rates.shape, dtype=dtype)
        y = torch.empty(rows, length, channels, dtype=u.dtype, device=u.device)
        after = state.new_empty(rows, channels, rates.shape[0], dtype=dtype)
        for part in _tiles(rows, rates.numel()):
            h = state[part].mT.to(dtype, copy=True).contiguous()
            decay = torch.empty_like(h)
            given = _Stretch(u[part], delta[part], b[part], c[part], dtype)
            made = torch.empty_like(given.inputs)
            outs = made.unbind()
            for first in range(0, length, _STRETCH):
                if keep:
                    kept[first // _STRETCH, part] = h
                for i, (step, entering, write, read) in enumerate(given.positions(first)):
                    torch.mul(step, rates, out=decay).exp_()
                    h.mul_(decay).addcmul_(write, entering)
                    torch.bmm(read, h, out=outs[i])
                given.put(y[part], made.squeeze(2))
            after[part] = h.mT
        ctx.save_for_backward(u, delta, a, b, c, kept)
        return y, after

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_y: Tensor, grad_after: Tensor) -> Any:
        u, delta, a, b, c, kept = ctx.saved_tensors
        rows, length, _ = u.shape
        dtype = kept.dtype
        rates = a.to(dtype).mT.contiguous()
        of_a = torch.zeros_like(rates)
        of_u, of_delta, of_b, of_c = (torch.empty_like(x) for x in (u, delta, b, c))
        of_state = grad_after.new_empty(grad_after.shape, dtype=dtype)
        for part in _tiles(rows, rates.numel()):
            given = _Stretch(u[part], delta[part], b[part], c[part], dtype)
            g = grad_after[part].mT.to(dtype, copy=True).contiguous()  # of the state after the position at hand
            states = g.new_empty(_STRETCH + 1, *g.shape).unbind()
            decays = g.new_empty(_STRETCH, *g.shape).unbind()
            through, of_rates = torch.empty_like(g), torch.zeros_like(g)
            asked, of_inputs, of_steps = (torch.empty_like(given.inputs) for _ in range(3))
            of_writes, of_reads = torch.empty_like(given.reads), torch.empty_like(given.reads)
            for first in range((length - 1) // _STRETCH * _STRETCH, -1, -_STRETCH):
                stretch = list(enumerate(given.positions(first)))
                given.get(asked.squeeze(2), grad_y[part])
                states[0].copy_(kept[first // _STRETCH, part])
                for i, (step, entering, write, _) in stretch:
                    torch.mul(step, rates, out=decays[i]).exp_()
                    torch.mul(states[i], decays[i], out=states[i + 1]).addcmul_(write, entering)
                for i, (step, entering, write, read) in reversed(stretch):
                    torch.bmm(asked[i], states[i + 1].mT, out=of_reads[i])  # the row first: ten times as fast
                    g.addcmul_(read.mT, asked[i])
                    torch.bmm(entering, g.mT, out=of_writes[i])
                    torch.bmm(write.mT, g, out=of_inputs[i])
                    g.mul_(decays[i])
                    torch.mul(states[i], g, out=through)  # the gradient of delta_t a
                    of_rates.addcmul_(through, step)
                    torch.sum(through.mul_(rates), 1, keepdim=True, out=of_steps[i])
                given.get(asked.squeeze(2), u[part])
                given.put(of_delta[part], of_steps.addcmul_(of_inputs, asked).squeeze(2))
                given.put(of_u[part], of_inputs.mul_(given.steps).squeeze(2))
                given.put(of_b[part], of_writes.squeeze(2))
                given.put(of_c[part], of_reads.squeeze(2))
            of_a += of_rates.sum(0)
            of_state[part] = g.mT
        return of_u, of_delta, of_a.mT.to(a.dtype), of_b, of_c, of_state.to(grad_after.dtype)


def _tiles(rows: int, size: int) -> list[slice]:
    step = max(1, _TILE // size)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


class _Stretch:
    """Some positions of some rows, position by position, in memory that every stretch uses again.

    Shape:
        - steps, inputs (what the steps let in): ``(_STRETCH, rows, 1, channels)``
        - writes: ``(_STRETCH, rows, states, 1)``; reads: ``(_STRETCH, rows, 1, states)``
    """

    def __init__(self, u: Tensor, delta: Tensor, b: Tensor, c: Tensor, dtype: torch.dtype):
        rows, self.length, channels = u.shape
        self.sources = u, delta, b, c
        self.window = slice(0, 0)
        self.steps, self.inputs = (u.new_empty(_STRETCH, rows, 1, channels, dtype=dtype) for _ in range(2))
        self.writes = u.new_empty(_STRETCH, rows, b.shape[-1], 1, dtype=dtype)
        self.reads = u.new_empty(_STRETCH, rows, 1, b.shape[-1], dtype=dtype)
        self.each = list(zip(*(x.unbind() for x in (self.steps, self.inputs, self.writes, self.reads)), strict=True))

    def positions(self, first: int) -> list[tuple[Tensor, ...]]:
        """Step size, input, write and read of each position from ``first`` on."""
        self.window = slice(first, min(first + _STRETCH, self.length))
        u, delta, b, c = self.sources
        self.get(self.steps.squeeze(2), delta)
        self.get(self.inputs.squeeze(2), u)
        self.inputs.mul_(self.steps)
        self.get(self.writes.squeeze(3), b)
        self.get(self.reads.squeeze(2), c)
        return self.each[: self.window.stop - first]

    def get(self, room: Tensor, source: Tensor) -> None:
        """Copy this stretch of ``(rows, length, ...)`` to ``(_STRETCH, rows, ...)``."""
        room[: self.window.stop - self.window.start] = source[:, self.window].transpose(0, 1)

    def put(self, target: Tensor, room: Tensor) -> None:
        """And back."""
        target[:, self.window] = room[: self.window.stop - self.window.start].transpose(0, 1)


def _reference(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    h, y = u.new_zeros(u.shape[0], *a.shape), []
    for t in range(u.shape[1]):
        h = (delta[:, t, :, None] * a).exp() * h + (delta[:, t] * u[:, t])[..., None] * b[:, t, None]
        y.append((h * c[:, t, None]).sum(-1) + (0 if d is None else d * u[:, t]))
    return torch.stack(y, 1), h
