"""Matching what was decoded with what may have been heard: CLIP scores and loss, ranks, top-k (arXiv 2208.12266)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from harken.errors import InputError

_EPS = 1e-8  # added to the norm of a candidate


def clip_scores(
    estimates: Float[Tensor, "batch features samples"],
    candidates: Float[Tensor, "candidates features samples"],
    *,
    normalise_estimates: bool = False,
    temperature: float = 1.0,
) -> Float[Tensor, "batch candidates"]:
    """``<Z_i, Y_j / ||Y_j||> / temperature``: how well each estimate matches each candidate, as one matrix product.

    The paper leaves the estimates as they are, so that their size says how sure they are, and has no temperature.

    >>> y = torch.eye(3)[:, None]
    >>> clip_scores(2 * y, 5 * y)
    tensor([[2., 0., 0.],
            [0., 2., 0.],
            [0., 0., 2.]])
    """
    z, y = estimates.flatten(1), candidates.flatten(1)
    scale = 1 / (_EPS + y.norm(dim=1))
    scores = (z @ y.mT) * scale
    if normalise_estimates:
        scores = scores / (_EPS + z.norm(dim=1, keepdim=True))
    return scores / temperature


def clip_loss(
    scores: Float[Tensor, "batch candidates"], segment: Int[Tensor, " candidates"] | None = None
) -> Float[Tensor, ""]:
    """Cross-entropy of the own candidate, ``j = i``; candidates beyond the batch are negatives alone.

    Args:
        scores: of :func:`clip_scores`.
        segment: which stretch of sound each candidate is. Where two people heard the same one, it is no negative.

    >>> round(float(clip_loss(torch.zeros(4, 8))), 4)  # log 8
    2.0794
    """
    own = torch.arange(len(scores), device=scores.device)
    if segment is not None:
        same = segment[: len(scores), None] == segment
        same[own, own] = False
        scores = scores.masked_fill(same, torch.finfo(scores.dtype).min)
    return F.cross_entropy(scores, own)


def squared_distance_scores(
    estimates: Float[Tensor, "batch features samples"], candidates: Float[Tensor, "candidates features samples"]
) -> Float[Tensor, "batch candidates"]:
    """Minus the mean squared difference: how a regression ranks candidates."""
    z, y = estimates.flatten(1), candidates.flatten(1)
    return (2 * z @ y.mT - y.square().sum(1) - z.square().sum(1, keepdim=True)) / z.shape[1]


def rank_of(scores: Float[np.ndarray, "batch candidates"], own: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " batch"]:
    """How many candidates score higher than the right one; those that score the same count half, rounded up.

    >>> rank_of(np.array([[0.1, 0.9, 0.5], [0.0, 0.0, 0.0]]), np.array([2, 0])).tolist()
    [1, 1]
    """
    right = scores[np.arange(len(scores)), own][:, None]
    ties = (scores == right).sum(1) - 1
    return (scores > right).sum(1) + (ties + 1) // 2


def top_k(scores: Float[np.ndarray, "batch candidates"], own: Int[np.ndarray, " batch"], k: int = 10) -> float:
    """Share of rows whose right candidate is among the ``k`` best.

    Raises:
        InputError: ``k`` is not below the number of candidates: any ranking would be right.
    """
    if not 1 <= k < scores.shape[1]:
        raise InputError(f"top {k} of {scores.shape[1]} different candidates says nothing: give more, or a smaller k")
    return float((rank_of(scores, own) < k).mean())


def segment_codes(segments: Float[np.ndarray, "segments *features"]) -> Int[np.ndarray, " segments"]:
    """A number for each stretch of speech that follows from its content: equal for equal sound, whoever heard it."""
    return np.array([_code(segment) for segment in np.ascontiguousarray(segments, np.float32)], np.int64)


def _code(segment: np.ndarray) -> int:
    return int.from_bytes(hashlib.blake2b(segment.tobytes(), digest_size=8).digest(), "little", signed=True)
