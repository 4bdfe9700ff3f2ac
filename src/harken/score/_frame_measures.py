"""PS and PM of many frames at once, from embedded references, outputs and distortions (arXiv 2509.09212)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from harken.errors import InputError
from harken.score._manifold import RIDGE, Cluster, DiffusionMap, diffusion_map
from harken.score._manifold_uncertainty import match_uncertainty, schur_terms, separation_half_width

Measure = Literal["ps", "pm"]


class FrameMeasure(NamedTuple):
    """PS or PM per frame and source, each ``(frames, sources)``.

    Attributes:
        value: in [0, 1], higher is better.
        radius: largest error that truncating the manifold can cause; nan where it was not asked for.
        half_width: of the confidence interval that the bank's finite size leaves; nan likewise.
    """

    value: Float[Tensor, "frames sources"]
    radius: Float[Tensor, "frames sources"]
    half_width: Float[Tensor, "frames sources"]


def measure_frames(
    points: Float[Tensor, "frames points dim"],
    distortions: Sequence[int],
    measure: Measure,
    *,
    uncertainty: bool = True,
    delta: float = 0.05,
) -> FrameMeasure:
    """Perceptual Separation (``"ps"``) or Perceptual Match (``"pm"``) of every frame.

    ``PS = 1 - A / (A + B)`` with ``A`` the Mahalanobis distance of a source's output to the cluster of its own
    reference and distortions, ``B`` that to the nearest other cluster. ``PM = 1 - F(a)`` with ``a`` the squared
    distance of the output to its reference and ``F`` the Gamma distribution fitted to the distortions' distances. Both
    are differentiable in the points; radius and half-width are not.

    Args:
        points: for each source in turn its reference, its output, its distortions.
        distortions: how many of them each source has, two or more.
        measure: which.
        uncertainty: compute radius and half-width too, at about twice the time.
        delta: how often the confidence interval may fail.

    Raises:
        InputError: fewer than two sources or distortions, or a number of points that these do not explain.

    >>> generator = torch.Generator().manual_seed(0)
    >>> near, far = torch.randn(2, 3, 12, 4, generator=generator) + torch.tensor([0.0, 9.0])[:, None, None, None]
    >>> found = measure_frames(torch.cat((near, far), 1), (10, 10), "ps")
    >>> found.value.shape, bool((found.value > 0.5).all())
    (torch.Size([3, 2]), True)
    """
    if measure not in ("ps", "pm"):
        raise InputError(f"no measure named '{measure}': choose 'ps' or 'pm'")
    if len(distortions) < 2 or min(distortions) < 2:
        raise InputError(f"expected two or more sources with two or more distortions each, got {tuple(distortions)}")
    if points.ndim != 3 or points.shape[1] != sum(distortions) + 2 * len(distortions):
        raise InputError(
            f"expected points (frames, {sum(distortions) + 2 * len(distortions)}, dim) for {tuple(distortions)} "
            f"distortions, their references and outputs, got {tuple(points.shape)}"
        )
    if not 0 < delta < 1:
        raise InputError(f"expected delta between 0 and 1, got {delta}")
    found = diffusion_map(points)
    measured = (separation_of_map if measure == "ps" else match_of_map)(found, distortions, uncertainty, delta)
    return FrameMeasure(*(values.to(points.dtype) for values in measured))


def _first_rows(distortions: Sequence[int]) -> list[int]:
    """Where each source's points begin."""
    starts = [0]
    for number in distortions[:-1]:
        starts.append(starts[-1] + number + 2)
    return starts


def _members(coordinates: Tensor, start: int, number: int) -> Tensor:
    """A source's reference and distortions, without its output."""
    return torch.cat((coordinates[:, start, None], coordinates[:, start + 2 : start + 2 + number]), 1)


def separation_of_map(
    found: DiffusionMap, distortions: Sequence[int], uncertainty: bool, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PS, its radius and half-width, ``(frames, sources)``, from the points' manifold."""
    coordinates, sources = found.kept, len(distortions)
    starts = _first_rows(distortions)
    outputs = coordinates[:, [start + 1 for start in starts]]
    groups = list(zip(starts, distortions, strict=True))
    clusters, centres = [], []
    for start, number in groups:
        members = _members(coordinates, start, number)
        centres.append(members.mean(1, keepdim=True))
        clusters.append(Cluster.around(members - centres[-1], found.is_kept, of_mean=True))
    to_cluster = torch.stack(
        [
            (cluster.squared_distances(outputs - centre) + RIDGE).sqrt()
            for cluster, centre in zip(clusters, centres, strict=True)
        ],
        -1,
    )  # (frames, outputs, clusters)
    itself = torch.eye(sources, dtype=torch.bool, device=coordinates.device)
    own = to_cluster.diagonal(dim1=-2, dim2=-1)
    other, nearest = to_cluster.masked_fill(itself, torch.inf).min(-1)
    value = 1 - own / (own + other + RIDGE)
    if not uncertainty:
        return value, torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    with torch.no_grad():
        rest, is_dropped = found.dropped, ~found.is_kept
        rest_outputs = rest[:, [start + 1 for start in starts]]
        terms = []
        for cluster, (start, number), centre in zip(clusters, groups, centres, strict=True):
            members = _members(rest, start, number)
            middle = members.mean(1, keepdim=True)
            added = schur_terms(cluster, members - middle, outputs - centre, rest_outputs - middle, is_dropped)
            terms.append(added.sqrt())
        term = torch.stack(terms, -1)
        of_own = term.diagonal(dim1=-2, dim2=-1)
        of_other = term.gather(-1, nearest[..., None])[..., 0]
        radius = (other * of_own + own * of_other) / (own + other).square()
        variances = [torch.stack(values, -1) for values in zip(*(c.variances() for c in clusters), strict=True)]
        half_width = torch.stack(
            [
                separation_half_width(
                    own[:, source],
                    other[:, source],
                    tuple(values[:, source] for values in variances),
                    tuple(values.gather(-1, nearest[:, [source]])[:, 0] for values in variances),
                    distortions[source] + 1,
                    delta,
                )
                for source in range(sources)
            ],
            -1,
        )
        truncated = is_dropped.any(-1, keepdim=True)  # nothing dropped, nothing estimated: the authors give zeros
        return value, radius * truncated, half_width * truncated


def match_of_map(
    found: DiffusionMap, distortions: Sequence[int], uncertainty: bool, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """PM, its radius and half-width, ``(frames, sources)``, from the points' manifold."""
    coordinates, rest, is_dropped = found.kept, found.dropped, ~found.is_kept
    values, radii, half_widths = [], [], []
    for start, number in zip(_first_rows(distortions), distortions, strict=True):
        rows = slice(start + 1, start + 2 + number)  # the output, then the distortions, relative to the reference
        relative = coordinates[:, rows] - coordinates[:, start, None]
        squared = Cluster.around(relative[:, 1:], found.is_kept).squared_distances(relative) + RIDGE
        values.append(_gamma_tail(squared[:, 0], squared[:, 1:]))
        if not uncertainty:
            continue
        with torch.no_grad():
            cluster = Cluster.around(relative[:, 1:], found.is_kept, of_mean=True)
            dropped = rest[:, rows] - rest[:, start, None]
            added = schur_terms(cluster, dropped[:, 1:], relative, dropped, is_dropped)
            squared = cluster.squared_distances(relative)
            radius, half_width = match_uncertainty(squared[:, 1:], squared[:, 0], added[:, 1:], added[:, 0], delta)
            truncated = is_dropped.any(-1)
            radii.append(radius * truncated)
            half_widths.append(half_width * truncated)
    value = torch.stack(values, -1)
    if not uncertainty:
        return value, torch.full_like(value, torch.nan), torch.full_like(value, torch.nan)
    return value, torch.stack(radii, -1), torch.stack(half_widths, -1)


def _gamma_tail(output: Float[Tensor, " frames"], distances: Float[Tensor, "frames members"]) -> Tensor:
    """``1 - F(output)``, ``F`` the Gamma distribution with the distances' mean and variance."""
    mean, variance = distances.mean(-1), distances.var(-1)
    varies = variance > 0
    variance = torch.where(varies, variance, 1.0)
    tail = _UpperGamma.apply(mean.square() / variance, output * mean / variance)
    return torch.where(varies, tail, 1.0)


class _UpperGamma(torch.autograd.Function):
    """Regularised upper incomplete gamma function Q(k, x), with the derivative in ``k`` that torch lacks."""

    @staticmethod
    def forward(ctx: Any, k: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(k, x)
        return torch.special.gammaincc(k, x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        k, x = ctx.saved_tensors
        step = 1e-5 * k  # a central difference in double precision: right to about ten digits
        to_k = (torch.special.gammaincc(k + step, x) - torch.special.gammaincc(k - step, x)) / (2 * step)
        to_x = -torch.exp((k - 1) * x.clamp_min(1e-300).log() - x - torch.lgamma(k))
        return gradients[0] * to_k, gradients[0] * to_x
