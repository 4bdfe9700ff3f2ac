"""Rotary positions: queries and keys turned by their place, so that their product knows the distance (2104.09864)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rotate(
    x: Float[Tensor, "batch heads time dim"],
    positions: Int[Tensor, "#batch time"],
    *,
    base: float = 10000.0,
    scale: float = 1.0,
) -> Float[Tensor, "batch heads time dim"]:
    """Turn the pair ``(x_i, x_{i + dim / 2})`` by the angle ``position / scale * base ** (-2 i / dim)``.

    The product of a query and a key so turned depends on the distance between them. The halves pair up as in LLaMA;
    ``scale`` above 1 squeezes the positions (interpolation, arXiv 2306.15595), for contexts longer than were trained
    on. Angles are computed in float32, whatever the precision of ``x``. ``dim`` is even.

    >>> q = k = torch.ones(1, 1, 6, 8)
    >>> product = rotate(q, torch.arange(6)[None]) @ rotate(k, torch.arange(6)[None]).transpose(-1, -2)
    >>> torch.allclose(product[0, 0, 1, 0], product[0, 0, 5, 4])
    True
    """
    pairs = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=torch.float32) / x.shape[-1]
    angles = (positions.float() / scale)[:, None, :, None] * base**-pairs
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    one, other = x.chunk(2, -1)
    return torch.cat((one * cos - other * sin, other * cos + one * sin), -1)
