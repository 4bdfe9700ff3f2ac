"""What every waveform metric shares: a checked pair of signals, their frames, their delay, their parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harken.errors import InputError

# a signal as users have it, floats of shape (samples,), and as metrics compute on it
Waveform = np.ndarray | Tensor
Samples = NDArray[np.float64]

LENGTH_TOLERANCE = 0.05


def matched(reference: Waveform, estimate: Waveform) -> tuple[Samples, Samples]:
    """Both signals as float64 arrays ``(samples,)`` of one length, checked.

    Lengths that differ by at most 5 % of the longer one are cut to the shorter, which forgives the last frame that many
    systems drop; more than that is a mistake.

    Raises:
        InputError: not one-dimensional, integers, empty, NaN or infinite samples, lengths too far apart.

    >>> [len(signal) for signal in matched(np.ones(100), np.ones(98))]
    [98, 98]
    """
    pair = _checked(reference, "reference"), _checked(estimate, "estimate")
    shorter, longer = sorted(len(signal) for signal in pair)
    if longer - shorter > LENGTH_TOLERANCE * longer:
        raise InputError(
            f"the reference has {len(pair[0])} samples and the estimate {len(pair[1])}: "
            f"lengths may differ by {LENGTH_TOLERANCE:.0%} at most; check that they belong together"
        )
    return pair[0][:shorter], pair[1][:shorter]


def _checked(signal: Waveform, role: str) -> Samples:
    array = signal.detach().cpu().numpy() if isinstance(signal, Tensor) else np.asarray(signal)
    if array.ndim != 1:
        raise InputError(f"expected the {role} of shape (samples,), got {array.shape}: score one channel at a time")
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"expected floating-point samples in [-1, 1], got a {role} of {array.dtype}: divide it by its full scale"
        )
    if not len(array):
        raise InputError(f"the {role} is empty: give it at least 0.25 s of signal")
    if not np.isfinite(array).all():
        raise InputError(f"the {role} holds NaN or infinite samples: mend or leave out that signal")
    return array.astype(np.float64)


def framewise(
    measure: Callable[[Samples, Samples], Samples], reference: Samples, estimate: Samples, rate: int
) -> Samples:
    """``measure`` on 30-ms Hann-windowed frames with 75 % overlap: one value a frame, ``(frames,)``.

    ``measure`` maps two blocks ``(frames, samples)`` to ``(frames,)``. Blocks of frames are handed over one after the
    other, so memory does not grow with length beyond the result.

    Raises:
        InputError: shorter than one frame.
    """
    frame_length = round(0.03 * rate)
    hop = frame_length // 4
    if len(reference) < frame_length or hop < 1:
        raise InputError(f"the signals have {len(reference)} samples: at least one frame of 30 ms is needed")
    # the window and the frame count (the last full frame is left out) are those of the programs behind published tables
    window = np.hanning(frame_length + 2)[1:-1]
    count = max(1, (len(reference) - frame_length) // hop)
    blocks = zip(_frames(reference, frame_length, hop, count), _frames(estimate, frame_length, hop, count), strict=True)
    return np.concatenate([measure(ours * window, theirs * window) for ours, theirs in blocks])


def _frames(signal: Samples, length: int, hop: int, count: int, block: int = 2048) -> Iterator[Samples]:
    views = np.lib.stride_tricks.sliding_window_view(signal, length)[::hop][:count]
    for start in range(0, count, block):
        yield views[start : start + block]


def mean_over_parts(
    measure: Callable[[Samples, Samples], float], reference: Samples, estimate: Samples, *, longest: int
) -> float:
    """``measure`` on the whole, or the mean over equal parts of at most ``longest`` samples that do not give nan."""
    count = -(-len(reference) // longest)
    edges = np.linspace(0, len(reference), count + 1).astype(int)
    values = [measure(reference[a:b], estimate[a:b]) for a, b in pairwise(edges)]
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def find_delay(reference: Waveform, estimate: Waveform, rate: int, *, max_delay: float = 0.05) -> int:
    """By how many samples the estimate lags behind the reference (negative: leads), at most ``max_delay`` seconds.

    The lag with the largest absolute cross-correlation, so an inverted polarity does not matter. Codecs and streaming
    denoisers delay; sample-wise metrics (SI-SDR, segmental SNR) fall apart unless the delay is removed first.

    >>> signal = np.random.default_rng(0).standard_normal(4000)
    >>> find_delay(signal[32:], signal[:-32], 16000)
    32
    """
    ours, theirs = matched(reference, estimate)
    reach = min(int(max_delay * rate), len(ours) - 1)
    padded = np.pad(theirs, reach)
    correlation = np.zeros(2 * reach + 1)
    block = max(1 << 17, 4 * reach)
    for start in range(0, len(ours), block):
        piece = ours[start : start + block]
        n_fft = 1 << (len(piece) + 2 * reach - 1).bit_length()
        spectrum = np.conj(np.fft.rfft(piece, n_fft)) * np.fft.rfft(
            padded[start : start + len(piece) + 2 * reach], n_fft
        )
        correlation += np.fft.irfft(spectrum, n_fft)[: 2 * reach + 1]
    return int(np.argmax(np.abs(correlation))) - reach if correlation.any() else 0


def shift(reference: Waveform, estimate: Waveform, delay: int) -> tuple[Samples, Samples]:
    """Both signals without the estimate's ``delay`` in samples, cut to what they share.

    >>> shift(np.array([1.0, 2, 3]), np.array([0.0, 1, 2]), 1)
    (array([1., 2.]), array([1., 2.]))
    """
    ours, theirs = matched(reference, estimate)
    ours, theirs = ours[max(0, -delay) :], theirs[max(0, delay) :]
    shared = min(len(ours), len(theirs))
    return ours[:shared], theirs[:shared]
