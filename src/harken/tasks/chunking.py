"""Long recordings in constant memory: overlapping chunks, cross-faded, from one stream of blocks to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from math import ceil

import numpy as np
from jaxtyping import Float

from harken.errors import InputError

Process = Callable[[Float[np.ndarray, "_ channels"]], Float[np.ndarray, "_ channels"]]


def plan_chunks(frames: int, chunk: int, overlap: int) -> list[tuple[int, int]]:
    """``(start, stop)`` of equally long chunks, none above ``chunk`` frames, neighbours sharing ``overlap`` frames.

    Equal lengths spare the model a short last chunk, on which its statistics would be poor. A recording that fits in
    one chunk is one chunk.

    Raises:
        InputError: ``chunk`` is not positive, or ``overlap`` is negative or above half a chunk.

    >>> plan_chunks(24, chunk=10, overlap=4)
    [(0, 9), (5, 14), (10, 19), (15, 24)]
    """
    if chunk < 1 or not 0 <= 2 * overlap <= chunk:
        raise InputError(f"chunks must be positive and overlap by at most half, got {chunk} and {overlap} frames")
    if frames <= chunk:
        return [(0, frames)]
    count = ceil((frames - overlap) / (chunk - overlap))
    edges = [i * (frames - overlap) // count for i in range(count + 1)]
    return [(start, stop + overlap) for start, stop in pairwise(edges)]


def process_in_chunks(
    blocks: Iterable[Float[np.ndarray, "_ channels"]],
    process: Process,
    *,
    frames: int,
    channels: int,
    chunk: int,
    overlap: int,
) -> Iterator[Float[np.ndarray, "_ channels"]]:
    """Run ``process`` on overlapping chunks of a stream and cross-fade its results by sin² ramps, which sum to one.

    Args:
        blocks: the stream, cut anywhere.
        process: maps a chunk to another of the same shape.
        frames: length of the whole stream; a shorter stream is continued by silence.
        channels: columns of every block.
        chunk: frames given to ``process`` at most.
        overlap: frames in which one chunk's result fades into the next one's.
    """
    fade_in = np.sin(np.pi / 2 * (np.arange(overlap, dtype=np.float32)[:, None] + 0.5) / max(overlap, 1)) ** 2
    source = iter(blocks)
    held = np.zeros((0, channels), np.float32)  # from the start of the chunk on
    faded = np.zeros((0, channels), np.float32)  # the end of the last chunk's result, already faded out
    plan = plan_chunks(frames, chunk, overlap)
    for index, (start, stop) in enumerate(plan):
        held = _fill(held, source, stop - start)
        result = process(held[: stop - start])
        if len(faded):
            result = np.concatenate((result[:overlap] * fade_in + faded, result[overlap:]))
        if index == len(plan) - 1:
            yield result
            return
        advance = plan[index + 1][0] - start
        faded = result[advance:] * (1 - fade_in)
        held = held[advance:]
        yield result[:advance]


def process_with_context(
    blocks: Iterable[Float[np.ndarray, "_ channels"]],
    process: Process,
    *,
    frames: int,
    channels: int,
    chunk: int,
    context: int,
    hop: int = 1,
) -> Iterator[Float[np.ndarray, "_ channels"]]:
    """Run ``process`` on pieces of a stream together with what lies around them: exactly what it makes of the whole.

    Args:
        blocks: the stream, cut anywhere.
        process: maps a piece to another of the same shape; a frame of its result depends on ``context`` frames around
            it and no others, counted from the grid of ``hop`` frames that begins where the piece begins.
        frames: length of the whole stream; a shorter stream is continued by silence.
        channels: columns of every block.
        chunk: frames that a piece brings on, whole hops of it.
        context: frames seen on both sides, whole hops.
        hop: the grid.

    Raises:
        InputError: a context that is no whole number of hops, or a chunk shorter than one.
    """
    if hop < 1 or chunk < hop or context < 0 or context % hop:
        raise InputError(f"expected whole hops of context and a chunk of at least one, got {context}, {chunk}, {hop}")
    source, step, begin = iter(blocks), chunk // hop * hop, 0
    held = np.zeros((0, channels), np.float32)  # from ``begin`` on
    for start in range(0, frames, step):
        stop, first = min(start + step, frames), max(0, start - context)
        held, begin = held[first - begin :], first
        held = _fill(held, source, min(frames, stop + context) - first)
        result = process(held[: min(frames, stop + context) - first])
        yield result[start - first : stop - first]


Piece = Callable[[Float[np.ndarray, "_ channels"], int], Float[np.ndarray, "_ columns"]]


def overlap_add(
    blocks: Iterable[Float[np.ndarray, "_ channels"]],
    process: Piece,
    *,
    frames: int,
    channels: int,
    segment: int,
    overlap: float = 0.25,
    context: int = 0,
) -> Iterator[Float[np.ndarray, "_ columns"]]:
    """Run ``process`` on overlapping segments of a stream and average its results, each weighted by a triangle.

    A segment's weight rises to its middle and falls again, so that nothing near an end, where a system knows least,
    counts for much; the sum is divided by the sum of the weights. All but the last segment are equally long.

    Args:
        blocks: the stream, cut anywhere.
        process: maps ``context`` frames, a segment and ``context`` frames, and the segment's length, to as many frames
            as the segment has, of any number of columns. Zeros stand for what lies beyond the stream's ends.
        frames: length of the whole stream; a shorter stream is continued by silence.
        channels: columns of every block.
        segment: frames of a segment.
        overlap: share of a segment that the next one repeats.
        context: frames seen on both sides.

    Raises:
        InputError: a segment that is not positive, or an overlap outside [0, 1).
    """
    held = cut_segments(blocks, frames=frames, channels=channels, segment=segment, overlap=overlap, context=context)
    yield from join_segments((process(*one) for one in held), frames=frames, segment=segment, overlap=overlap)


def cut_segments(
    blocks: Iterable[Float[np.ndarray, "_ channels"]],
    *,
    frames: int,
    channels: int,
    segment: int,
    overlap: float = 0.25,
    context: int = 0,
) -> Iterator[tuple[Float[np.ndarray, "_ channels"], int]]:
    """The segments of :func:`overlap_add`, each with ``context`` frames on both sides, and their lengths without it."""
    stride = _stride(segment, overlap)
    if context < 0:
        raise InputError(f"expected a context of at least 0, got {context}")
    source = iter(blocks)
    held = np.zeros((context, channels), np.float32)  # from ``context`` before the segment on
    for start in range(0, frames, stride):
        length = min(segment, frames - start)
        held = _fill(held, source, length + 2 * context)
        yield held[: length + 2 * context], length
        held = held[stride:]


def join_segments(
    made: Iterable[Float[np.ndarray, "_ columns"]], *, frames: int, segment: int, overlap: float = 0.25
) -> Iterator[Float[np.ndarray, "_ columns"]]:
    """The average of what was made of each segment, in their order, as soon as no later one can change it."""
    stride, half = _stride(segment, overlap), segment // 2
    weight = np.concatenate((np.arange(1, half + 1), np.arange(segment - half, 0, -1))).astype(np.float32)
    weight = (weight / weight.max())[:, None]
    total, weights = np.zeros((0, 0), np.float32), np.zeros((0, 1), np.float32)
    for start, part in zip(range(0, frames, stride), made, strict=True):
        length = len(part)
        longest = max(length, len(total))
        total, weights = _lengthen(total, longest, part.shape[1]), _lengthen(weights, longest, 1)
        total[:length] += weight[:length] * part
        weights[:length] += weight[:length]
        ready = min(stride, frames - start)
        yield total[:ready] / weights[:ready]
        total, weights = total[ready:], weights[ready:]


def _stride(segment: int, overlap: float) -> int:
    if segment < 1 or not 0 <= overlap < 1:
        raise InputError(f"expected a positive segment and an overlap in [0, 1), got {segment} and {overlap}")
    return max(1, int((1 - overlap) * segment))


def _lengthen(part: np.ndarray, frames: int, columns: int) -> np.ndarray:
    return np.concatenate((part.reshape(-1, columns), np.zeros((frames - len(part), columns), np.float32)))


def _fill(held: np.ndarray, source: Iterator[np.ndarray], frames: int) -> np.ndarray:
    parts, count = [held], len(held)
    while count < frames:
        block = next(source, None)
        if block is None:
            block = np.zeros((frames - count, held.shape[1]), np.float32)
        parts.append(block)
        count += len(block)
    return np.concatenate(parts) if len(parts) > 1 else held
