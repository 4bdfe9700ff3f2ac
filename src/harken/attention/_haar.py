"""Haar wavelet scales of a sequence: taken apart and put together, and weighed scale by scale in causal order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

_ROOT_HALF = 0.5**0.5


def haar(x: Float[Tensor, "batch time channels"], levels: int) -> list[Float[Tensor, "batch _ channels"]]:
    """The orthonormal Haar transform along time: details, finest first, then the approximation.

    ``time`` must be a multiple of ``2 ** levels``. A detail is ``(even - odd) / sqrt(2)``, and the sum of squares stays
    what it was.

    >>> [scale.shape[1] for scale in haar(torch.randn(1, 8, 3), levels=2)]
    [4, 2, 2]
    """
    scales = []
    for _ in range(levels):
        even, odd = x[:, 0::2], x[:, 1::2]
        scales.append((even - odd) * _ROOT_HALF)
        x = (even + odd) * _ROOT_HALF
    return [*scales, x]


def inverse_haar(scales: list[Float[Tensor, "batch _ channels"]]) -> Float[Tensor, "batch time channels"]:
    """What :func:`haar` took apart, put together again.

    >>> x = torch.randn(1, 8, 3)
    >>> torch.allclose(inverse_haar(haar(x, levels=2)), x, atol=1e-6)
    True
    """
    *details, x = scales
    for detail in reversed(details):
        x = torch.stack((x + detail, x - detail), 2).flatten(1, 2) * _ROOT_HALF
    return x


def weigh_past(x: Tensor, gains: Tensor) -> Tensor:
    """The causal transform and its inverse in one, ``sum_l g_l (a_{l-1} - a_l) + g_{levels+1} a_levels``.

    ``a_l[t]`` is the mean of the ``2 ** l`` positions up to ``t``; ``x`` begins ``2 ** levels - 1`` before the gains.
    Sorted by ``a_l`` the sum needs no details: ``g_1 a_0 + sum_l (g_{l+1} - g_l) a_l``.
    """
    time = gains.shape[1]
    sums = x
    weighed = x[:, x.shape[1] - time :] * gains[..., :1]
    for level in range(1, gains.shape[-1]):
        reach = 2 ** (level - 1)
        sums = sums[:, reach:] + sums[:, :-reach]
        gain = (gains[..., level : level + 1] - gains[..., level - 1 : level]) * 0.5**level
        weighed = torch.addcmul(weighed, sums[:, sums.shape[1] - time :], gain)
    return weighed


def haar_reference(u: Tensor, gains: Tensor) -> Tensor:
    """Block means instead of wavelets: a detail is what a block of means has over its own mean."""
    time, out = len(u), torch.zeros_like(u)
    for t in range(time):
        for level in range(gains.shape[1]):
            finer, coarser = (_block_mean(u, t, size) for size in (2**level, 2 ** (level + 1)))
            last = level == gains.shape[1] - 1
            start = t // 2 ** (level + (0 if last else 1)) * 2 ** (level + (0 if last else 1))
            out[t] += gains[start, level] * (finer if last else finer - coarser)
    return out


def _block_mean(u: Tensor, t: int, size: int) -> Tensor:
    start = t // size * size
    return u[start : start + size].sum(0) / size  # zeros past the end count


def causal_reference(u: Tensor, gains: Tensor) -> Tensor:
    def mean(t: int, size: int) -> Tensor:
        return torch.stack([u[max(0, s)] for s in range(t - size + 1, t + 1)]).mean(0)

    levels = gains.shape[1] - 1
    return torch.stack(
        [
            sum(
                (gains[t, level] * (mean(t, 2**level) - mean(t, 2 ** (level + 1))) for level in range(levels)),
                gains[t, levels] * mean(t, 2**levels),
            )
            for t in range(len(u))
        ]
    )
