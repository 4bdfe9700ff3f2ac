"""Diffusion maps of many frames at once, and Mahalanobis distances on them, in double precision (arXiv 2509.09212)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.errors import InputError

RIDGE = 1e-6  # added to a covariance that lacks full rank, and to squared distances
_SINGLE = torch.finfo(torch.float32).eps  # ranks are judged as single precision would


class DiffusionMap(NamedTuple):
    """Points of ``frames`` frames on their manifolds.

    Shape:
        - coordinates: ``(frames, points, points - 1)``, eigenvector times eigenvalue, most important first; the signs
          are arbitrary
        - eigenvalues: ``(frames, points - 1)``, descending, without the trivial one
        - is_kept: ``(frames, points - 1)``, the leading coordinates that hold ``share`` of the eigenvalues' sum
        - degrees: ``(frames, points)``, row sums of the normalised kernel
    """

    coordinates: Float[Tensor, "frames points coordinates"]
    eigenvalues: Float[Tensor, "frames coordinates"]
    is_kept: Bool[Tensor, "frames coordinates"]
    degrees: Float[Tensor, "frames points"]

    @property
    def kept(self) -> Float[Tensor, "frames points kept"]:
        """The leading coordinates of all frames, as wide as the widest; zero where a frame keeps fewer."""
        widest = int(self.is_kept.sum(-1).max())
        return self.coordinates[..., :widest] * self.is_kept[:, None, :widest]

    @property
    def dropped(self) -> Float[Tensor, "frames points dropped"]:
        """The other coordinates of all frames, from the first that any drops; zero where one is kept."""
        first = int(self.is_kept.sum(-1).min())
        return self.coordinates[..., first:] * ~self.is_kept[:, None, first:]


def diffusion_map(points: Float[Tensor, "frames points dim"], *, share: float = 0.99) -> DiffusionMap:
    """Map the points of each frame by one step of a random walk among them (Coifman and Lafon, 2006).

    ``K_ij = exp(-|x_i - x_j|^2 / 2e)`` with ``e`` the median squared distance; ``K_ij / d_i d_j`` with the row sums
    ``d`` undoes the points' density; its row sums ``d`` again give ``A = D^-1/2 K D^-1/2``, whose eigenvectors times
    eigenvalues are the coordinates. The gradient is guarded against equal eigenvalues: exact for whatever does not
    depend on a rotation among their eigenvectors.

    Raises:
        InputError: fewer than three points.

    >>> found = diffusion_map(torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(0)))
    >>> found.coordinates.shape, bool((found.eigenvalues[:, 0] < 1).all())
    (torch.Size([2, 10, 9]), True)
    """
    count = points.shape[-2]
    if count < 3:
        raise InputError(f"a diffusion map needs at least 3 points in a frame, got {count}")
    x = points.double()
    x = x - x.mean(-2, keepdim=True)  # distances stay, cancellation in the next lines shrinks
    energy = x.square().sum(-1)
    squared = torch.baddbmm(energy[:, :, None] + energy[:, None], x, x.mT, alpha=-2).clamp_min(0)
    squared.diagonal(dim1=-2, dim2=-1).zero_()
    above = torch.ones(count, count, dtype=torch.bool, device=x.device).triu(1).flatten().nonzero().flatten()
    width = squared.flatten(1).index_select(1, above).median(-1).values.clamp_min(torch.finfo(torch.float64).tiny)
    kernel = torch.exp(squared * (-0.5 / width)[:, None, None])
    weight = kernel.sum(-1).reciprocal()
    # K is symmetric: a row times K is quicker than K times a column
    degrees = weight * (weight[:, None] @ kernel)[:, 0]
    half = weight * degrees.rsqrt()
    # of the negative, whose eigenvalues ascend as those of the kernel descend
    values, vectors = _Eigenpairs.apply(-half[:, :, None] * kernel * half[:, None])
    values, vectors = -values[:, 1:], vectors[..., 1:]
    with torch.no_grad():
        sums = values.cumsum(-1)
        number = (sums / sums[:, -1:] < share).sum(-1, keepdim=True) + 1
        is_kept = torch.arange(count - 1, device=x.device) < number
    return DiffusionMap(vectors * values[:, None], values, is_kept, degrees)


class _Eigenpairs(torch.autograd.Function):
    """``torch.linalg.eigh`` whose gradient leaves out pairs of equal eigenvalues, where it would be 0 / 0."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        ctx.save_for_backward(values, vectors)
        return values, vectors

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        values, vectors = ctx.saved_tensors
        to_values, to_vectors = gradients
        gap = values[:, None] - values[:, :, None]
        inverse = torch.where(gap.abs() > 1e-12, 1 / gap, 0.0)
        inner = torch.diag_embed(to_values) + inverse * (vectors.mT @ to_vectors)
        gradient = vectors @ inner @ vectors.mT
        return (gradient + gradient.mT) / 2


class Cluster(NamedTuple):
    """Points, centred, with their covariance ``L Lᵀ``; padding coordinates are zero and have unit variance.

    Shape:
        - centred: ``(frames, members, kept)``
        - covariance, factor (``L``): ``(frames, kept, kept)``
        - is_kept: ``(frames, kept)``, false where the coordinate is padding
    """

    centred: Float[Tensor, "frames members kept"]
    covariance: Float[Tensor, "frames kept kept"]
    factor: Float[Tensor, "frames kept kept"]
    is_kept: Bool[Tensor, "frames kept"]

    @classmethod
    def around(
        cls,
        centred: Float[Tensor, "frames members kept"],
        is_kept: Bool[Tensor, "frames coordinates"],
        *,
        of_mean: bool = False,
    ) -> Cluster:
        """Covariance about zero, or with ``of_mean`` about the members' own mean."""
        is_kept = is_kept[:, : centred.shape[-1]]
        about = centred - centred.mean(-2, keepdim=True) if of_mean else centred
        covariance = about.mT @ about / (centred.shape[-2] - 1)
        with torch.no_grad():
            spanned = centred.shape[-2] - of_mean
            lacking = lacks_rank(covariance.detach(), is_kept, spanned)
            added = torch.where(is_kept, lacking[:, None] * RIDGE, 1.0)
        covariance = covariance + torch.diag_embed(added)
        return cls(centred, covariance, torch.linalg.cholesky(covariance), is_kept)

    def whiten(self, points: Float[Tensor, "frames points kept"]) -> Float[Tensor, "frames kept points"]:
        """``L^-1 x``: squared lengths of the columns are squared Mahalanobis distances."""
        return torch.linalg.solve_triangular(self.factor, points.mT, upper=False)

    def squared_distances(self, points: Float[Tensor, "frames points kept"]) -> Float[Tensor, "frames points"]:
        """``x^T C^-1 x`` of points given relative to the centre."""
        return self.whiten(points).square().sum(-2)

    def variances(self) -> tuple[Tensor, Tensor, Tensor]:
        """Least and greatest eigenvalue and trace of the covariance, without padding: three of ``(frames,)``."""
        covariance = self.covariance.detach()
        covariance = covariance * (self.is_kept[:, :, None] & self.is_kept[:, None])
        values = _eigenvalues(covariance, self.is_kept)
        return values[:, 0], values[:, -1], covariance.diagonal(dim1=-2, dim2=-1).sum(-1)


def lacks_rank(
    covariance: Float[Tensor, "frames kept kept"], is_kept: Bool[Tensor, "frames kept"], spanned: int
) -> Bool[Tensor, " frames"]:
    """Whether a covariance of ``spanned`` independent points lacks full rank, as single precision would judge it."""
    number = is_kept.sum(-1)
    lacking = number > spanned
    unsure = (~lacking).nonzero().flatten()
    if len(unsure):
        values = _eigenvalues(covariance[unsure], is_kept[unsure])
        lacking[unsure] = values[:, 0] <= number[unsure] * _SINGLE * values[:, -1]
    return lacking


def _eigenvalues(covariance: Tensor, is_kept: Tensor) -> Tensor:
    """Ascending; padding takes the mean variance, which lies between the least and the greatest."""
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    mean = (variances * is_kept).sum(-1, keepdim=True) / is_kept.sum(-1, keepdim=True)
    return torch.linalg.eigvalsh(covariance + torch.diag_embed(torch.where(is_kept, 0.0, mean)))
