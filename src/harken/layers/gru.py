"""A bidirectional GRU's states, for inference on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


def bidirectional_gru(gru: nn.GRU, x: Float[Tensor, "rows length inputs"]) -> Float[Tensor, "length hidden rows"]:
    """The states of a one-layer bidirectional ``nn.GRU``, for inference: equal to it, about a quarter faster on a CPU.

    Both directions advance in one batched product; input, bias and state lie under each other, so that the reset and
    update gates are a single product; what the new gate takes from the input is computed for all positions at once.
    """
    (rows, length, inputs), hidden = x.shape, gru.hidden_size
    of_input = torch.stack((gru.weight_ih_l0, gru.weight_ih_l0_reverse))
    of_state = torch.stack((gru.weight_hh_l0, gru.weight_hh_l0_reverse))
    input_bias = torch.stack((gru.bias_ih_l0, gru.bias_ih_l0_reverse))[..., None]
    state_bias = torch.stack((gru.bias_hh_l0, gru.bias_hh_l0_reverse))[..., None]
    gates, new = slice(0, 2 * hidden), slice(2 * hidden, None)
    of_gates = torch.cat((of_state[:, gates], input_bias[:, gates] + state_bias[:, gates], of_input[:, gates]), 2)
    of_new = torch.cat((of_state[:, new], state_bias[:, new]), 2)

    x = x.permute(1, 2, 0).contiguous()
    new_inputs = torch.matmul(of_input[:, new].reshape(2 * hidden, inputs), x).view(length, 2, hidden, rows)
    new_inputs += input_bias[:, new]
    stacked = x.new_zeros(2, hidden + 1 + inputs, rows)  # state, a row of ones for the biases, input
    stacked[:, hidden] = 1
    state, inputs_now = stacked[:, :hidden], stacked[:, hidden + 1 :]
    reset_update, candidate = x.new_empty(2, 2 * hidden, rows), x.new_empty(2, hidden, rows)
    states = x.new_empty(length, 2, hidden, rows)
    for forward in range(length):
        backward = length - 1 - forward
        inputs_now[0], inputs_now[1] = x[forward], x[backward]
        torch.bmm(of_gates, stacked, out=reset_update)
        torch.bmm(of_new, stacked[:, : hidden + 1], out=candidate)
        reset_update.sigmoid_()
        candidate *= reset_update[:, :hidden]
        candidate[0] += new_inputs[forward, 0]
        candidate[1] += new_inputs[backward, 1]
        torch.lerp(candidate.tanh_(), state, reset_update[:, hidden:], out=state)
        states[forward, 0], states[backward, 1] = state[0], state[1]
    return states.flatten(1, 2)
