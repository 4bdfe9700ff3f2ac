"""One-dimensional convolutions as products of matrices, on signals with their channels last.

With channels last, the samples under a kernel are neighbours in memory, so that a strided convolution is one product of
matrices with what a view or a copy of the signal holds: nothing is reordered before or after, forward or backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def down(x: Float[Tensor, "batch samples channels"], conv: nn.Conv1d) -> Float[Tensor, "batch frames out"]:
    """``conv``, unpadded, whose kernel is a whole number of strides: blocks of a stride, multiplied and added."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    if kernel % stride:
        return conv(x.mT).mT
    reach = kernel // stride
    batch, samples, channels = x.shape
    blocks = samples // stride
    x = x[:, : blocks * stride].reshape(batch, blocks, stride * channels)
    if reach > 1:
        frames = blocks - reach + 1
        x = torch.cat([x[:, part : part + frames] for part in range(reach)], 2)
    if kernel > 1 and x.numel() < conv.weight.numel():  # what is smaller is reordered: deep layers are few frames
        return F.linear(x.unflatten(2, (kernel, channels)).mT.flatten(2), conv.weight.flatten(1), conv.bias)
    return F.linear(x, conv.weight.transpose(1, 2).flatten(1), conv.bias)


def through(layer: nn.Module, x: Float[Tensor, "batch samples channels"]) -> Float[Tensor, "batch frames out"]:
    """The convolutions and activations of a layer, one after the other."""
    for part in layer.children():
        if isinstance(part, nn.Conv1d):
            x = down(x, part)
        elif isinstance(part, nn.ConvTranspose1d):
            x = up(x, part)
        else:  # of the two that there are
            x = F.glu(x, -1) if isinstance(part, nn.GLU) else F.relu_(x)
    return x


def up(x: Float[Tensor, "batch frames channels"], conv: nn.ConvTranspose1d) -> Float[Tensor, "batch samples out"]:
    """``conv`` transposed, whose kernel is a whole number of strides: each frame's blocks, added where they overlap."""
    (kernel,), (stride,) = conv.kernel_size, conv.stride
    if kernel % stride:
        return conv(x.mT).mT
    reach, out = kernel // stride, conv.out_channels
    if x.shape[0] * x.shape[1] * out * kernel < conv.weight.numel():
        made = (x @ conv.weight.flatten(1)).unflatten(2, (out, kernel)).mT.flatten(2)
    else:
        made = x @ conv.weight.transpose(1, 2).flatten(1)
    parts = made.split(stride * out, 2)
    total = F.pad(parts[0], (0, 0, 0, reach - 1))
    for part in range(1, reach):
        total = total + F.pad(parts[part], (0, 0, part, reach - 1 - part))
    total = total.reshape(len(x), -1, out)
    return total if conv.bias is None else total + conv.bias
