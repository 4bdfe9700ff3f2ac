"""A bidirectional GRU and the linear layer behind it, for inference on a CPU."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_ROWS = 320  # sequences advanced together: enough to fill a matrix product, few enough for the cache
_STEPS = 8  # positions between two visits to memory


def add_bidirectional_gru(
    out: Float[Tensor, "rows length outputs"],
    x: Float[Tensor, "rows length inputs"],
    gru: nn.GRU,
    linear: nn.Linear,
) -> None:
    """Add ``linear(leaky_relu(gru(x)))`` to ``out`` in place, for a one-layer bidirectional ``nn.GRU``.

    Equal to PyTorch's modules, and about twice as quick on a CPU, because the work stays in its cache. Both directions
    advance in one batched product, a few positions at a time; their states go straight through the linear layer and
    are never stored as a whole. State, a one (for the biases) and input lie side by side in one slot a position, so
    that the reset and update gates are a single product and a state is written where the next product reads it::

        r, z = sigmoid([h 1 x] W_rz)    n = tanh([1 x] W_n + r * [h 1] U_n)    h = n + z * (h - n)

    >>> gru, linear, x = nn.GRU(4, 6, bidirectional=True, batch_first=True), nn.Linear(12, 4), torch.randn(3, 5, 4)
    >>> out = torch.zeros(3, 5, 4)
    >>> with torch.inference_mode():
    ...     add_bidirectional_gru(out, x, gru, linear)
    >>> torch.allclose(out, linear(F.leaky_relu(gru(x)[0])), atol=1e-6)
    True
    """
    weights = _gate_weights(gru)
    of_states = torch.stack(linear.weight.t().chunk(2))
    out += linear.bias
    tiles = -(-len(x) // _ROWS)
    for some_out, some in zip(out.tensor_split(tiles), x.tensor_split(tiles), strict=True):
        _advance(some_out.transpose(0, 1), some.transpose(0, 1), weights, of_states)


def _advance(
    out: Float[Tensor, "length rows outputs"],
    x: Float[Tensor, "length rows inputs"],
    weights: tuple[Tensor, Tensor, Tensor],
    of_states: Float[Tensor, "2 hidden outputs"],
) -> None:
    """Both directions along all positions of a few sequences."""
    (length, rows, inputs), hidden = x.shape, of_states.shape[1]
    of_gates, of_state, of_input = weights
    slots = x.new_empty(2, _STEPS + 1, rows, hidden + 1 + inputs)  # the backward direction's run against time
    slots[..., hidden] = 1
    slots[:, 0, :, :hidden] = 0
    gates = x.new_empty(2, rows, 2 * hidden)
    reset, update = gates[..., :hidden], gates[..., hidden:]
    candidate, new = x.new_empty(2, 2, rows, hidden)
    for start in range(0, length, _STEPS):
        steps = min(_STEPS, length - start)
        ahead, behind = slice(start, start + steps), slice(length - start - steps, length - start)
        slots[0, :steps, :, hidden + 1 :] = x[ahead]
        slots[1, :steps, :, hidden + 1 :] = x[behind].flip(0)
        for slot, following in pairwise(slots[:, : steps + 1].unbind(1)):
            torch.bmm(slot, of_gates, out=gates)
            torch.bmm(slot[..., : hidden + 1], of_state, out=candidate)
            torch.bmm(slot[..., hidden:], of_input, out=new)
            gates.sigmoid_()
            torch.addcmul(new, candidate, reset, out=new).tanh_()
            torch.lerp(new, slot[..., :hidden], update, out=following[..., :hidden])
        states = F.leaky_relu(slots[:, 1 : steps + 1, :, :hidden]).flatten(1, 2)
        forward, backward = torch.bmm(states, of_states).unflatten(1, (steps, rows))
        out[ahead] += forward
        out[behind] += backward.flip(0)
        slots[:, 0, :, :hidden] = slots[:, steps, :, :hidden]


def _gate_weights(gru: nn.GRU) -> tuple[Tensor, Tensor, Tensor]:
    """What makes the reset and update gates, ``(2, hidden + 1 + inputs, 2 hidden)``, and the new gate's two parts."""
    of_input, of_state = _both(gru, "weight_ih").transpose(1, 2), _both(gru, "weight_hh").transpose(1, 2)
    input_bias, state_bias = _both(gru, "bias_ih")[:, None], _both(gru, "bias_hh")[:, None]
    gates, new = slice(0, 2 * gru.hidden_size), slice(2 * gru.hidden_size, None)
    return (
        torch.cat((of_state[..., gates], (input_bias + state_bias)[..., gates], of_input[..., gates]), 1),
        torch.cat((of_state[..., new], state_bias[..., new]), 1),
        torch.cat((input_bias[..., new], of_input[..., new]), 1),
    )


def _both(gru: nn.GRU, name: str) -> Tensor:
    return torch.stack((gru.get_parameter(f"{name}_l0"), gru.get_parameter(f"{name}_l0_reverse")))
