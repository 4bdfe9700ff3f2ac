"""How far PS and PM can be off: error radii of the truncated manifold, half-widths of the finite banks."""

from __future__ import annotations

import math
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.score._manifold import RIDGE, Cluster

_SINGLE = torch.finfo(torch.float32).eps
_EFFECTIVE = 0.7  # share of a bank's members that counts as independent
_LEAST_VARIANCE = 0.05  # of the greatest, in half-widths


def schur_terms(
    cluster: Cluster,
    dropped: Float[Tensor, "frames members coordinates"],
    points: Float[Tensor, "frames points kept"],
    points_dropped: Float[Tensor, "frames points coordinates"],
    is_dropped: Bool[Tensor, "frames coordinates"],
) -> Float[Tensor, "frames points"]:
    """What the dropped coordinates add to squared Mahalanobis distances of points (relative to the centre).

    ``r^T S^-1 r`` with ``r = x_c - C_dc^T C_d^-1 x_d`` and the Schur complement ``S = C_c - C_dc^T C_d^-1 C_dc``. The
    dropped coordinates outnumber the members, so ``S`` is a ridge plus a matrix of low rank, ``ridge I + C^T M C``: its
    inverse is taken among the members (Woodbury), from inner products alone.
    """
    members = dropped.shape[-2]
    eye = torch.eye(members, dtype=dropped.dtype, device=dropped.device)
    inner = dropped @ dropped.mT
    whitened = cluster.whiten(cluster.centred)
    pulled = whitened.mT @ cluster.whiten(points) / (members - 1)  # r = x_c - C^T pulled
    middle = (eye - 1 / members) / (members - 1) - whitened.mT @ whitened / (members - 1) ** 2
    residual = points_dropped.mT - dropped.mT @ pulled
    seen = dropped @ residual
    lacking = _lacks_rank(inner, is_dropped.sum(-1))
    ridge = (1e-9 + RIDGE * lacking.to(inner))[:, None, None]
    corrected = middle @ torch.linalg.solve(ridge * eye + inner @ middle, seen)
    squared = residual.square().sum(-2) - (seen * corrected).sum(-2)
    return (squared / ridge[:, 0]).clamp_min(0)


def _lacks_rank(inner: Tensor, width: Tensor) -> Tensor:
    """Whether the covariance of the dropped coordinates lacks full rank, as single precision would judge it."""
    lacking = width >= inner.shape[-1]  # more coordinates than members, less their mean
    unsure = (~lacking).nonzero().flatten()
    if len(unsure):
        inner, count = inner[unsure], width[unsure]
        inner = inner - inner.mean(-1, keepdim=True)
        values = torch.linalg.eigvalsh(inner - inner.mean(-2, keepdim=True)).flip(-1)
        least = values.gather(-1, (count - 1).clamp_min(0)[:, None])[:, 0]
        lacking[unsure] = (count == 0) | (least <= count * _SINGLE * values[:, 0])
    return lacking


def separation_half_width(
    own: Tensor, other: Tensor, own_variances: tuple[Tensor, ...], other_variances: tuple[Tensor, ...], members: int,
    delta: float,
) -> Tensor:  # fmt: skip
    """Half-width of the interval around PS that holds with probability ``1 - delta``.

    Args:
        own: Mahalanobis distance of the output to its own cluster.
        other: to the nearest other one.
        own_variances: least and greatest eigenvalue and trace of the own cluster's covariance.
        other_variances: of the other's.
        members: of the own cluster.
        delta: how often the interval may fail.
    """
    number = max(int(_EFFECTIVE * members), 3)
    log = math.log(4 / delta)

    def spread(distance: Tensor, variances: tuple[Tensor, ...]) -> Tensor:
        least, greatest, trace = variances
        greatest = greatest.clamp_min(torch.finfo(torch.float64).tiny)
        least = torch.maximum(least.clamp_min(1e-9), _LEAST_VARIANCE * greatest)
        rank = trace / greatest
        of_mean = (2 * greatest * log / number).sqrt()
        of_covariance = (rank / number).sqrt() + (rank + log) / number
        return 2 * distance.sqrt() * of_mean * (greatest / least).sqrt() + distance * of_covariance

    slope = torch.hypot(own, other) / (own + other).square()
    return (slope * torch.hypot(spread(own, own_variances), spread(other, other_variances))).clamp_max(1.0)


def match_uncertainty(
    squared: Float[Tensor, "frames distortions"],
    output: Float[Tensor, " frames"],
    squared_added: Float[Tensor, "frames distortions"],
    output_added: Float[Tensor, " frames"],
    delta: float,
) -> tuple[Float[Tensor, " frames"], Float[Tensor, " frames"]]:
    """Error radius and half-width of PM: the largest change at the corners of a box around the Gamma fit.

    Args:
        squared: squared Mahalanobis distances of the distortions.
        output: of the output.
        squared_added: what the dropped coordinates add to the first.
        output_added: and to the second.
        delta: how often the half-width may fail.
    """
    number = squared.shape[-1]
    mean, variance = squared.mean(-1), squared.var(-1) + 1e-12
    shape, scale = mean.square() / variance, variance / mean.clamp_min(1e-12)
    full = squared + squared_added
    most = squared_added.amax(-1) * number / (number - 1)
    radius = _largest_change(
        (shape, scale, output),
        (
            most * (full.mean(-1) + mean) / variance,
            most * (full.var(-1) + 1e-12 + variance) / (mean.square() + 1e-9),
            output_added,
        ),
        least=1e-6,
    )
    # empirical Bernstein bounds on mean and deviation, carried through to shape and scale
    log = math.log(6 / delta)
    greatest, deviation = squared.amax(-1) + 1e-12, variance.sqrt()
    of_mean = (2 * variance * log / number).sqrt() + 3 * greatest * log / number
    of_deviation = greatest * math.sqrt(2 * log / number) + 3 * greatest.square() * log / number
    of_shape = 2 * mean / (variance + 1e-9) * of_mean + 2 * mean.square() / (deviation**3 + 1e-9) * of_deviation
    of_scale = variance / (mean.square() + 1e-9) * of_mean + 2 * deviation / (mean + 1e-9) * of_deviation
    half_width = _largest_change(
        (shape, scale, output),
        (
            torch.minimum(of_shape, shape / 2),
            torch.minimum(of_scale, scale / 2),
            torch.minimum(greatest * math.sqrt(2 * log / number), output / 2 + 1e-12),
        ),
        least=1e-12,
    )
    return radius, half_width


def _largest_change(centre: tuple[Tensor, ...], change: tuple[Tensor, ...], least: float) -> Tensor:
    shape, scale, output = centre
    middle = torch.special.gammaincc(shape, output / scale.clamp_min(1e-12))
    corners = []
    for signs in product((-1, 1), repeat=3):
        k, theta, a = (value + sign * step for sign, value, step in zip(signs, centre, change, strict=True))
        corners.append(torch.special.gammaincc(k.clamp_min(least), a.clamp_min(1e-8) / theta.clamp_min(least)))
    return (torch.stack(corners) - middle).abs().amax(0)
