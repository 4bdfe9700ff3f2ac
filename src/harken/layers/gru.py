"""A bidirectional GRU's states, for inference on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def bidirectional_gru(
    gru: nn.GRU, x: Float[Tensor, "rows length inputs"]
) -> tuple[Float[Tensor, "length hidden rows"], Float[Tensor, "length hidden rows"]]:
    """The states of a one-layer bidirectional ``nn.GRU``, for inference: equal to it, and quicker on a CPU.

    Returns the forward and the backward direction's, both in the order of the sequence, features before rows. Both
    directions advance in one batched product. State, a row of ones (for the biases) and input lie under each other in
    one slot a position, so that the reset and update gates are a single product and a state is written where the next
    product reads it. What the new gate takes from the input is computed for all positions at once.
    """
    (rows, length, inputs), hidden = x.shape, gru.hidden_size
    of_input, of_state = _both(gru, "weight_ih"), _both(gru, "weight_hh")
    input_bias, state_bias = _both(gru, "bias_ih")[..., None], _both(gru, "bias_hh")[..., None]
    gates, new = slice(0, 2 * hidden), slice(2 * hidden, None)
    of_gates = torch.cat((of_state[:, gates], input_bias[:, gates] + state_bias[:, gates], of_input[:, gates]), 2)
    of_new = torch.cat((of_state[:, new], state_bias[:, new]), 2)

    x = x.permute(1, 2, 0).contiguous()
    slots = x.new_empty(length + 1, 2, hidden + 1 + inputs, rows)  # the backward direction's run against time
    slots[0, :, :hidden] = 0
    slots[:, :, hidden] = 1
    slots[:length, 0, hidden + 1 :] = x
    slots[:length, 1, hidden + 1 :] = x.flip(0)
    new_inputs = x.new_empty(length, 2, hidden, rows)
    new_inputs[:, 0] = torch.matmul(of_input[0, new], x)
    new_inputs[:, 1] = torch.matmul(of_input[1, new], x).flip(0)
    new_inputs += input_bias[:, new]
    reset_update, candidate = x.new_empty(2, 2 * hidden, rows), x.new_empty(2, hidden, rows)
    for slot, following, new_input in zip(slots[:length], slots[1:], new_inputs, strict=True):
        torch.bmm(of_gates, slot, out=reset_update)
        torch.bmm(of_new, slot[:, : hidden + 1], out=candidate)
        reset_update.sigmoid_()
        torch.addcmul(new_input, candidate, reset_update[:, :hidden], out=candidate).tanh_()
        torch.lerp(candidate, slot[:, :hidden], reset_update[:, hidden:], out=following[:, :hidden])
    return slots[1:, 0, :hidden], slots[1:, 1, :hidden].flip(0)


def _both(gru: nn.GRU, name: str) -> Tensor:
    return torch.stack((gru.get_parameter(f"{name}_l0"), gru.get_parameter(f"{name}_l0_reverse")))
