"""The selective scan of Mamba on a CPU: a linear recurrence whose decay, input and output follow the sequence."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError

_TILE = 1 << 18  # numbers in the state of the rows that advance together: what a core's cache holds
_KEPT = 16  # training keeps every sixteenth state and computes the others again


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
        kept = u.new_empty(-(-length // _KEPT) if keep else 0, rows, *rates.shape, dtype=dtype)
        y = torch.empty(rows, length, channels, dtype=u.dtype, device=u.device)
        after = state.new_empty(rows, channels, rates.shape[0], dtype=dtype)
        for part in _tiles(rows, rates.numel()):
            h = state[part].mT.to(dtype, copy=True).contiguous()
            steps, inputs, writes, reads = _time_first(u[part], delta[part], b[part], c[part], dtype)
            decay = torch.empty_like(h)
            out = torch.empty_like(inputs)
            for t in range(length):
                if keep and t % _KEPT == 0:
                    kept[t // _KEPT, part] = h
                _advance(h, decay, steps[t], rates, inputs[t], writes[t])
                torch.bmm(reads[t].unsqueeze(1), h, out=out[t].unsqueeze(1))
            y[part] = out.transpose(0, 1)
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
        grads = [torch.empty_like(x) for x in (u, delta, b, c)]
        of_state = grad_after.new_empty(grad_after.shape, dtype=dtype)
        for part in _tiles(rows, rates.numel()):
            steps, inputs, writes, reads = _time_first(u[part], delta[part], b[part], c[part], dtype)
            asked = grad_y[part].transpose(0, 1).to(dtype).contiguous()
            of_inputs, of_steps = torch.empty_like(inputs), torch.empty_like(steps)
            of_writes, of_reads = torch.empty_like(writes), torch.empty_like(reads)
            g = grad_after[part].mT.to(dtype, copy=True).contiguous()  # of the state after the position at hand
            states = g.new_empty(_KEPT + 1, *g.shape)
            decays = g.new_empty(_KEPT, *g.shape)
            for first in range((length - 1) // _KEPT * _KEPT, -1, -_KEPT):
                states[0] = kept[first // _KEPT, part]
                stretch = range(first, min(first + _KEPT, length))
                for i, t in enumerate(stretch):
                    states[i + 1] = states[i]
                    _advance(states[i + 1], decays[i], steps[t], rates, inputs[t], writes[t])
                for i, t in reversed(list(enumerate(stretch))):
                    torch.bmm(states[i + 1], asked[t].unsqueeze(2), out=of_reads[t].unsqueeze(2))
                    g.addcmul_(reads[t].unsqueeze(2), asked[t].unsqueeze(1))
                    torch.bmm(g, inputs[t].unsqueeze(2), out=of_writes[t].unsqueeze(2))
                    torch.bmm(writes[t].unsqueeze(1), g, out=of_inputs[t].unsqueeze(1))
                    g.mul_(decays[i])
                    through = torch.mul(states[i], g, out=states[i + 1])  # the gradient of delta_t a
                    torch.sum(torch.mul(through, rates, out=decays[i]), 1, out=of_steps[t])
                    of_a += torch.sum(through.mul_(steps[t].unsqueeze(1)), 0)
            of_state[part] = g.mT
            of_delta = of_steps + of_inputs * u[part].transpose(0, 1).to(dtype)
            of_u = of_inputs.mul_(steps)
            for grad, found in zip(grads, (of_u, of_delta, of_writes, of_reads), strict=True):
                grad[part] = found.transpose(0, 1)
        of_u, of_delta, of_b, of_c = grads
        return of_u, of_delta, of_a.mT.to(a.dtype), of_b, of_c, of_state.to(grad_after.dtype)


def _tiles(rows: int, size: int) -> list[slice]:
    step = max(1, _TILE // size)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _time_first(u: Tensor, delta: Tensor, b: Tensor, c: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Step sizes, what they let in, writes and reads of some rows, ``(length, rows, ...)``."""
    steps, inputs, writes, reads = (x.transpose(0, 1).to(dtype).contiguous() for x in (delta, u, b, c))
    return steps, inputs * steps, writes, reads


def _advance(h: Tensor, decay: Tensor, step: Tensor, rates: Tensor, entering: Tensor, write: Tensor) -> None:
    """The state after one more position, in place, and its decay."""
    torch.mul(step.unsqueeze(1), rates, out=decay).exp_()
    h.mul_(decay).addcmul_(write.unsqueeze(2), entering.unsqueeze(1))


def _reference(
    u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence as it is written."""
    h, y = u.new_zeros(u.shape[0], *a.shape), []
    for t in range(u.shape[1]):
        h = (delta[:, t, :, None] * a).exp() * h + (delta[:, t] * u[:, t])[..., None] * b[:, t, None]
        y.append((h * c[:, t, None]).sum(-1) + (0 if d is None else d * u[:, t]))
    return torch.stack(y, 1), h
