"""Brain signals beside the speech that was heard: segments of both, and splits that share no sound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from harken.data.brain import Recording
from harken.errors import InputError


@dataclass(frozen=True)
class SpeechTrials:
    """Stretches of brain signal with the speech heard in them.

    Attributes:
        x: volts, ``(trials, channels, samples)``.
        speech: features of what was heard, ``(trials, features, samples)``, at the same rate.
        subject: who listened, whole numbers, ``(trials,)``.
        source: which recording of speech, ``(trials,)``: the same number where two people heard the same one.
        onset: seconds into it, ``(trials,)``.
        sfreq: samples a second, of both.
        ch_names: one name a channel.
        positions: of the sensors, ``(channels, 2)`` in [0, 1] or ``(channels, 3)`` in metres; None where not known.
        note: what a report should say about them, such as that they are simulated.
    """

    x: Float[np.ndarray, "trials channels samples"]
    speech: Float[np.ndarray, "trials features samples"]
    subject: Int[np.ndarray, " trials"]
    source: Int[np.ndarray, " trials"]
    onset: Float[np.ndarray, " trials"]
    sfreq: float
    ch_names: tuple[str, ...] = ()
    positions: Float[np.ndarray, "channels _"] | None = None
    note: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def seconds(self) -> float:
        """Of one trial."""
        return self.x.shape[2] / self.sfreq

    def select(self, which: Any) -> SpeechTrials:
        """Some of the trials, by index or mask."""
        parts = ("x", "speech", "subject", "source", "onset")
        return replace(self, **{name: getattr(self, name)[which] for name in parts})


def cut_segments(
    recording: Recording,
    features: Float[np.ndarray, "features frames"],
    *,
    seconds: float = 3.0,
    step: float | None = None,
    lead: float = 0.0,
    subject: int = 0,
    source: int = 0,
) -> SpeechTrials:
    """Windows of one recording and of the speech that was heard during it.

    Args:
        recording: of the brain.
        features: of the speech, at the recording's rate; frame 0 was heard ``lead`` seconds into the recording.
        seconds, step: length of a window, and from one to the next; one after the other when None.
        lead: see above.
        subject, source: numbers of the listener and of the speech.

    Raises:
        InputError: the two do not overlap by a window.
    """
    length = round(seconds * recording.sfreq)
    hop = max(1, round((seconds if step is None else step) * recording.sfreq))
    first = round(lead * recording.sfreq)
    if not 2 <= length <= 1 << 20:
        raise InputError(f"expected windows of at least two samples, got {seconds:g} s at {recording.sfreq:g} Hz")
    starts = [
        start
        for start in range(0, features.shape[1] - length + 1, hop)
        if 0 <= start + first <= recording.data.shape[1] - length
    ]
    if not starts:
        raise InputError(
            f"'{recording.name}' ({recording.seconds:.1f} s) and the speech ({features.shape[1] / recording.sfreq:.1f} "
            f"s from {lead:g} s on) share no window of {seconds:g} s: ask for shorter ones, or look at the lead"
        )
    return SpeechTrials(
        x=np.stack([recording.data[:, s + first : s + first + length] for s in starts]).astype(np.float32),
        speech=np.stack([features[:, s : s + length] for s in starts]).astype(np.float32),
        subject=np.full(len(starts), subject, np.int64),
        source=np.full(len(starts), source, np.int64),
        onset=np.array(starts) / recording.sfreq,
        sfreq=recording.sfreq,
        ch_names=recording.ch_names,
        positions=recording.positions,
    )


def joined_speech(parts: Sequence[SpeechTrials]) -> SpeechTrials:
    """Trials of several recordings as one set.

    Raises:
        InputError: rates, channels or lengths differ.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.x.shape[1:] != first.x.shape[1:] or (part.sfreq, part.ch_names) != (first.sfreq, first.ch_names):
            raise InputError("the recordings differ in rate, channels or window length: give --sfreq and --channels")
    names = ("x", "speech", "subject", "source", "onset")
    together: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(first, **together)


def split_by_sound(
    trials: SpeechTrials,
    *,
    block: float = 12.0,
    shares: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " validation"], Int[np.ndarray, " test"]]:
    """Indices to train on, to stop by and to judge on, such that no sound is in two of them.

    Each recording of speech is cut into blocks; a block belongs to one part, for all listeners, and windows that reach
    into a block of another part are left out.

    Args:
        trials: what to split.
        block: seconds, 6 or more in the paper; two windows or more keep most of the data.
        shares: of the blocks.
        seed: decides which blocks.

    Raises:
        InputError: shares that are none, or too few blocks for them.
    """
    if min(shares) < 0 or not 0.999 < sum(shares) < 1.001:
        raise InputError(f"expected three shares that sum to 1, got {shares}")
    if block < trials.seconds:
        raise InputError(f"blocks of {block:g} s hold no window of {trials.seconds:g} s: make them longer")
    end = trials.onset + trials.seconds - 0.5 / trials.sfreq
    first, last = (trials.onset // block).astype(np.int64), (end // block).astype(np.int64)
    known = sorted({(int(s), int(b)) for s, a, z in zip(trials.source, first, last, strict=True) for b in (a, z)})
    order = np.random.default_rng(seed).permutation(len(known))
    edges = np.round(np.cumsum(shares) * len(known)).astype(int)
    part = {known[k]: int(np.searchsorted(edges, place, side="right")) for place, k in enumerate(order)}
    begins = np.array([part[int(s), int(b)] for s, b in zip(trials.source, first, strict=True)])
    ends = np.array([part[int(s), int(b)] for s, b in zip(trials.source, last, strict=True)])
    found = tuple(np.flatnonzero((begins == number) & (ends == number)) for number in range(3))
    for share, index in zip(shares, found, strict=True):
        if share and not len(index):
            raise InputError(f"{len(known)} blocks of {block:g} s are too few to split: give more speech, or --block")
    return found[0], found[1], found[2]
