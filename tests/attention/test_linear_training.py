"""Linear in length means training too: what the backward pass writes per position does not grow with the sequence."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harken.attention import create_attention


class Written(TorchDispatchMode):
    """Counts the elements of all new tensors."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made._base is None:
            self.count += made.numel()
        return made


def written_per_position(mechanism, length):
    layer = create_attention(mechanism, dim=32, heads=2, causal=True)
    x = torch.randn(1, length, 32, requires_grad=True)
    with Written() as written:
        layer(x).sum().backward()
    return written.count / length


@pytest.mark.parametrize(
    "mechanism",
    [
        "lightning",
        "gated-linear",
        "linear",
        "flow",
        "mala",
        "deconstructed:variant=approximate",
        "deconstructed:variant=non-approximate",
    ],
)
def test_training_writes_as_much_per_position_whatever_the_length(mechanism):
    assert written_per_position(mechanism, 32768) < 1.03 * written_per_position(mechanism, 8192)
