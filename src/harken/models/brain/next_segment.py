"""Learning to tell the next segment from others: the contrastive pre-training of MVPFormer (arXiv 2506.20354)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from harken.errors import InputError
from harken.models.brain.mvpformer import MVPFormer

TEMPERATURE, NEGATIVES = 0.1, 30


def draw_negatives(
    real: Bool[Tensor, "batch segments channels"], count: int, generator: torch.Generator | None = None
) -> Int[Tensor, "batch segments channels count"]:
    """For every token ``count`` others of the whole batch, drawn uniformly from the real ones, never itself.

    The released code draws below ``(batch - 1) * segments * channels``, which leaves out the last item of the batch and
    fails for a batch of one; here every other token is equally likely.

    Raises:
        InputError: there are not two real tokens.
    """
    places = real.flatten().nonzero()[:, 0].cpu()
    if len(places) < 2:
        raise InputError("expected two segments or more to tell apart: take longer trials or larger batches")
    ranks = real.flatten().cpu().cumsum(0) - 1
    drawn = torch.randint(len(places) - 1, (real.numel(), count), generator=generator)
    drawn = places[drawn + (drawn >= ranks[:, None])]
    return drawn.view(*real.shape, count).to(real.device)


def contrastive_logits(
    predicted: Float[Tensor, "batch segments channels dim"],
    tokens: Float[Tensor, "batch segments channels dim"],
    negatives: Int[Tensor, "batch segments channels count"],
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "batch earlier channels candidates"]:
    """Cosines of each prediction with the token that came next (first) and with its negatives, over a temperature.

    Row ``t`` predicts segment ``t + 1`` and meets the negatives drawn for that segment. A negative that equals the
    positive is no negative: its logit is -inf. Negatives carry no gradient; the positive does, and it is the negatives
    that keep all tokens from becoming the same.

    Args:
        predicted: what :meth:`MVPFormer.predict_next` gave.
        tokens: what :meth:`MVPFormer.encode` gave.
        negatives: indices into the flat list of tokens, :func:`draw_negatives`.
        temperature: 0.1 as published.
    """
    targets, others = tokens[:, 1:], tokens.detach().flatten(0, 2)[negatives[:, 1:]]
    query = F.normalize(predicted[:, :-1], dim=-1, eps=1e-8)
    positive = (query * F.normalize(targets, dim=-1, eps=1e-8)).sum(-1, keepdim=True)
    against = (F.normalize(others, dim=-1, eps=1e-8) @ query[..., None])[..., 0]
    same = (others == targets.detach()[..., None, :]).all(-1)
    return torch.cat((positive, against.masked_fill(same, -math.inf)), -1) / temperature


def contrastive_loss(
    logits: Float[Tensor, "batch earlier channels candidates"],
    real: Bool[Tensor, "batch segments channels"] | None = None,
) -> Float[Tensor, ""]:
    """Cross entropy of the first candidate, the mean over predictions whose segment and its successor are there."""
    losses = F.cross_entropy(
        logits.flatten(0, 2), logits.new_zeros(logits.shape[:3].numel(), dtype=torch.long), reduction="none"
    )
    if real is None:
        return losses.mean()
    counted = (real[:, 1:] & real[:, :-1]).flatten()
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum().clamp_min(1)


def next_segment_loss(
    model: MVPFormer,
    x: Float[Tensor, "batch segments channels segment"],
    real: Bool[Tensor, "batch segments channels"] | None = None,
    *,
    negatives: int = NEGATIVES,
    generator: torch.Generator | None = None,
) -> Float[Tensor, ""]:
    """The loss of a batch without labels."""
    logits, present = _logits(model, x, real, negatives, generator)
    return contrastive_loss(logits, present)


@torch.no_grad()
def retrieval_accuracy(
    model: MVPFormer,
    x: Float[Tensor, "batch segments channels segment"],
    real: Bool[Tensor, "batch segments channels"] | None = None,
    *,
    negatives: int = NEGATIVES,
    generator: torch.Generator | None = None,
) -> float:
    """How often the next segment is picked from among itself and others; chance is ``1 / (1 + negatives)``."""
    logits, present = _logits(model, x, real, negatives, generator)
    counted = present[:, 1:] & present[:, :-1]
    return float((logits.argmax(-1) == 0)[counted].float().mean())


def _logits(
    model: MVPFormer, x: Tensor, real: Tensor | None, negatives: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    present = torch.ones(x.shape[:3], dtype=torch.bool, device=x.device) if real is None else real
    if x.shape[1] < 2:
        raise InputError("a trial of one segment has no next one: take shorter segments")
    tokens = model.encode(x)
    drawn = draw_negatives(present, negatives, generator)
    return contrastive_logits(model.predict_next(tokens, mask=real), tokens, drawn), present
