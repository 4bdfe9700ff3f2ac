"""MAPSS: how well sources are separated, and how well they match, judged on a manifold (arXiv 2509.09212)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from harken.errors import InputError
from harken.score._distortion_banks import FRAME, RATE, match_bank, separation_bank
from harken.score._frame_measures import FrameMeasure, Measure, measure_frames
from harken.score.loudness import SHORTEST, normalise_loudness
from harken.score.speech_encoders import Encoder, find_encoder

__all__ = ["FrameMeasure", "Mapss", "active_frames", "mapss", "measure_frames"]

T = TypeVar("T")

_LOUDNESS_ROWS = 8  # signals of a bank whose spectra are held at once


@dataclass(frozen=True)
class Mapss:
    """PS and PM per 20-ms frame and source; nan where the source or all the others are silent.

    Shape:
        - ps.value, pm.value and their radius and half_width: ``(frames, sources)``
        - is_active: ``(frames, sources)``, where the source is heard
        - seconds: ``(frames,)``, when each frame begins
    """

    ps: FrameMeasure
    pm: FrameMeasure
    is_active: Bool[Tensor, "frames sources"]

    @property
    def seconds(self) -> Float[Tensor, " frames"]:
        """When each frame begins."""
        return torch.arange(len(self.is_active)) * (FRAME / RATE)

    def mean(self) -> dict[str, Float[Tensor, " sources"]]:
        """The mean of ``ps`` and ``pm`` over each source's frames (our choice; the paper gives scores per frame)."""
        return {"ps": self.ps.value.nanmean(0), "pm": self.pm.value.nanmean(0)}


def active_frames(
    references: Float[Tensor, "sources samples"], ratio: float = 0.1, level: Float[Tensor, " sources"] | None = None
) -> Bool[Tensor, "frames sources"]:
    """Where each source is heard: frames of 20 ms at 16 kHz with more than ``ratio`` of its RMS.

    A frame that ends exactly with the signal is left out, as in the paper's code.

    Args:
        references: the clean sources.
        ratio: of the frame's RMS to ``level``.
        level: RMS of each source; of ``references`` when None.

    >>> active_frames(torch.cat((torch.zeros(1, 640), torch.ones(1, 641)), 1))[:, 0].tolist()
    [False, False, True, True]
    """
    frames = max(0, (references.shape[-1] - 1) // FRAME)
    rms = (references[:, : frames * FRAME].unflatten(-1, (frames, FRAME)).square().mean(-1) + 1e-12).sqrt()
    level = references.square().mean(-1).sqrt() if level is None else level
    return (rms > ratio * level[:, None]).T


def mapss(
    references: Float[Tensor, "sources samples"],
    estimates: Float[Tensor, "sources samples"],
    *,
    encoder: str | Encoder = "raw",
    layer: int = 2,
    uncertainty: bool = True,
    delta: float = 0.05,
    seed: int = 0,
    segment_seconds: float = 30.0,
    frames_at_once: int = 64,
    progress: Callable[[float], None] | None = None,
) -> Mapss:
    """Perceptual Separation and Perceptual Match of separated sources, in the order of their references.

    Every reference is distorted in some 70 ways; references, distortions and estimates, all at -23 LUFS, are encoded
    frame by frame and laid on one manifold per frame. PS asks whether an estimate lies nearer to its own cluster than
    to another (leakage), PM whether it lies as near to its reference as the distortions do (its own distortion).
    Differentiable in ``estimates`` wherever the encoder is.

    Longer signals are scored as if cut into equal parts of at most ``segment_seconds``, which bounds memory.

    Args:
        references: two or more clean sources at 16 kHz.
        estimates: what a system made of their mixture, as many.
        encoder: ``"raw"``, ``"spectrum"``, a speech model (:class:`~harken.score.speech_encoders.SpeechModel`), or a
            function of signals and a number of frames.
        layer: of a speech model; the paper's results use the last (24 of the large ones, 12 of the base ones).
        uncertainty: compute error radii and confidence half-widths too.
        delta: how often a confidence interval may fail.
        seed: of the noises among the distortions.
        segment_seconds: length of a part; 1 s or more.
        frames_at_once: frames whose manifolds are held at once.
        progress: called with the share done.

    Raises:
        InputError: fewer than two sources, other shapes of the estimates, NaN, a silent reference or estimate, less
            than 0.4 s; an encoder that cannot be used.
        MissingExtraError: SciPy is not installed, or what the encoder needs.

    >>> one, two = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    >>> scores = mapss(torch.stack((one, two)), torch.stack((one + 0.1 * two, two)), uncertainty=False)
    >>> bool(scores.mean()["ps"][0] < scores.mean()["ps"][1])
    True
    """
    _check(references, estimates, segment_seconds)
    encode = find_encoder(encoder, layer)
    references, estimates = references.detach().double(), estimates.double()
    level = references.square().mean(-1).sqrt()
    frames = (references.shape[-1] - 1) // FRAME
    parts = max(1, -(-frames * FRAME // int(segment_seconds * RATE)))
    edges = [frames * part // parts for part in range(parts + 1)]
    scores: list[Mapss] = []
    for number, (first, last) in enumerate(pairwise(edges)):
        # the sample after the last frame: a part's end is then no different from a signal's
        samples = slice(first * FRAME, last * FRAME + 1)
        if parts == 1:
            samples = slice(None)

        def told(share: float, number: int = number) -> None:
            if progress:
                progress((number + share) / parts)

        scores.append(
            _score_part(
                references[:, samples], estimates[:, samples], level, encode,
                (uncertainty, delta, seed + number, frames_at_once), told,
            )
        )  # fmt: skip
    return Mapss(
        _joined([part.ps for part in scores]),
        _joined([part.pm for part in scores]),
        torch.cat([part.is_active for part in scores]),
    )


def _joined(parts: list[FrameMeasure]) -> FrameMeasure:
    return FrameMeasure(*(torch.cat(values) for values in zip(*parts, strict=True)))


def _score_part(
    references: Tensor,
    estimates: Tensor,
    level: Tensor,
    encode: Encoder,
    options: tuple[bool, float, int, int],
    progress: Callable[[float], None],
) -> Mapss:
    uncertainty, delta, seed, at_once = options
    is_active = active_frames(references, level=level)
    is_active = is_active & (is_active.sum(-1, keepdim=True) >= 2)
    clean = normalise_loudness(references, RATE)
    clean_points, estimated_points = (
        encode(signals.float(), len(is_active)) for signals in (clean, normalise_loudness(estimates, RATE))
    )
    made: dict[Measure, FrameMeasure] = {}
    measures: tuple[Measure, ...] = ("ps", "pm")
    for number, measure in enumerate(measures):
        points = []
        for source, signal in enumerate(clean):
            bank = _encoded_bank(signal, measure, np.random.default_rng([seed, source, number]), encode, len(is_active))
            points.append(torch.cat((clean_points[source, None], estimated_points[source, None], bank)))
            progress((number + 0.5 * (source + 1) / len(clean)) / 2)
        blank = estimated_points.new_full(is_active.shape, torch.nan, dtype=torch.float32)
        values = [blank.clone() for _ in FrameMeasure._fields]
        batches = list(_batches(is_active, at_once))

        def measured(
            batch: tuple[Tensor, list[int]], points: list[Tensor] = points, measure: Measure = measure
        ) -> FrameMeasure:
            rows, sources = batch
            together = torch.cat([points[source][:, rows] for source in sources]).transpose(0, 1)
            sizes = [len(points[source]) - 2 for source in sources]
            return measure_frames(together, sizes, measure, uncertainty=uncertainty, delta=delta)

        for done, ((rows, sources), found) in enumerate(zip(batches, _on_all_cores(measured, batches), strict=True)):
            for kept, new in zip(values, found, strict=True):
                kept[rows[:, None], torch.tensor(sources)] = new
            progress((number + 0.5 + 0.5 * (done + 1) / len(batches)) / 2)
        made[measure] = FrameMeasure(*values)
    return Mapss(made["ps"], made["pm"], is_active)


def _on_all_cores(measured: Callable[[T], FrameMeasure], batches: list[T]) -> Iterator[FrameMeasure]:
    """One batch on each of PyTorch's threads: eigenvectors of many small matrices are found one after the other."""
    threads = min(torch.get_num_threads(), len(batches))
    if threads < 2:
        yield from map(measured, batches)
        return
    wants_gradient, is_inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def alone(batch: T) -> FrameMeasure:
        torch.set_num_threads(1)
        with torch.inference_mode(is_inference), torch.set_grad_enabled(wants_gradient):
            return measured(batch)

    before = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(alone, batches)
    finally:
        torch.set_num_threads(before)


def _encoded_bank(
    signal: Tensor, measure: Measure, rng: np.random.Generator, encode: Encoder, frames: int
) -> Float[Tensor, "distortions frames dim"]:
    bank = torch.from_numpy((separation_bank if measure == "ps" else match_bank)(signal.cpu().numpy(), rng))
    with torch.no_grad():
        for rows in bank.split(_LOUDNESS_ROWS):
            rows.copy_(normalise_loudness(rows, RATE))
        return encode(bank.to(signal.device), frames)


def _batches(is_active: Tensor, at_once: int) -> Iterator[tuple[Tensor, list[int]]]:
    """Frames in which the same sources are heard, some at a time."""
    for pattern in is_active.unique(dim=0):
        sources = pattern.nonzero().flatten().tolist()
        if len(sources) >= 2:
            rows = (is_active == pattern).all(-1).nonzero().flatten()
            yield from ((some, sources) for some in rows.split(at_once))


def _check(references: Tensor, estimates: Tensor, segment_seconds: float) -> None:
    if references.ndim != 2 or references.shape != estimates.shape:
        raise InputError(
            "expected references and estimates (sources, samples) of one shape, "
            f"got {tuple(references.shape)} and {tuple(estimates.shape)}"
        )
    if len(references) < 2:
        raise InputError(f"separation needs at least 2 sources, got {len(references)}: score one source otherwise")
    if references.shape[-1] < SHORTEST * RATE + 1:
        raise InputError(
            f"{references.shape[-1] / RATE:.3f} s is too short to score: give more than {SHORTEST} s at {RATE} Hz"
        )
    if not segment_seconds >= 1:
        raise InputError(f"expected parts of 1 s or more, got {segment_seconds} s")
    for role, signals in (("reference", references), ("estimate", estimates)):
        for number, signal in enumerate(signals, 1):
            if not signal.isfinite().all():
                raise InputError(f"{role} {number} holds NaN or infinite samples: mend it")
            if not signal.any():
                raise InputError(f"{role} {number} is silent: there is nothing to score")
