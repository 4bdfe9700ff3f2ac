"""When a layer may take the form that only computes: buffers reused, results written in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def only_computes(layer: nn.Module, x: Tensor) -> bool:
    """Whether ``x`` lies in a CPU's memory and nobody watches: no gradient, autocast, trace or compiler, and no hook.

    A hook on a part of ``layer`` counts, because the forms for inference do not call their parts one by one.

    >>> layer, x = torch.nn.Linear(1, 1), torch.zeros(1)
    >>> only_computes(layer, x)
    False
    >>> with torch.inference_mode():
    ...     only_computes(layer, x)
    True
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if torch.jit.is_tracing() or x.device.type != "cpu":
        return False
    return not any(part._forward_hooks or part._forward_pre_hooks for part in layer.modules() if part is not layer)
