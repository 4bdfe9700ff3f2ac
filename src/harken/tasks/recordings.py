"""Recordings as tasks take them: from files or memory, streamed twice, checked on the first pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken.data.audio import BLOCK, Audio, not_finite
from harken.errors import InputError

Progress = Callable[[str, float, float], None]
"""Called with the recording's name, the seconds done and the seconds in all."""


class Recording(Protocol):
    """What tasks work on: samples that can be streamed twice."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def rate(self) -> int:
        """Frames per second."""

    @property
    def channels(self) -> int:
        """How many."""

    def blocks(self) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """All samples from the start on."""


@dataclass(frozen=True)
class HeldAudio:
    """Audio in memory, seen as a recording."""

    audio: Audio
    name: str = "the samples"

    @property
    def rate(self) -> int:
        """Frames per second."""
        return self.audio.rate

    @property
    def channels(self) -> int:
        """How many."""
        return self.audio.channels

    def blocks(self) -> Iterator[np.ndarray]:
        """All samples from the start on."""
        samples = self.audio.samples
        return (samples[start : start + BLOCK] for start in range(0, len(samples), BLOCK))


class FirstPass:
    """The blocks of a recording, counted and looked through while they pass; :meth:`check` when all have."""

    def __init__(self, recording: Recording):
        self.recording = recording
        self.frames = self._bad = self._first = 0

    def blocks(self) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """All of them, with zeros for what is not finite."""
        for block in self.recording.blocks():
            wrong = ~np.isfinite(block)
            if wrong.any():
                self._first = self._first if self._bad else self.frames + int(np.flatnonzero(wrong.any(1))[0])
                self._bad += int(wrong.sum())
                block = np.where(wrong, np.float32(0), block)
            self.frames += len(block)
            yield block

    def check(self, verb: str) -> None:
        """Refuse what cannot be worked on.

        Raises:
            InputError: NaN or infinite samples, or none at all.
        """
        if self._bad:
            raise not_finite(self.recording.name, self._bad, self._first, self.recording.rate)
        if self.frames == 0:
            raise InputError(f"'{self.recording.name}' holds no samples: nothing to {verb}")


def exactly(frames: int, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """The stream cut, or continued by silence, to ``frames``: resampling there and back may round by a few."""
    left, channels = frames, 1
    for block in blocks:
        channels = block.shape[1]
        if left and len(block):
            yield block[:left]
        left -= min(left, len(block))
    if left:
        yield np.zeros((left, channels), np.float32)


def as_samples(source: np.ndarray | Tensor) -> np.ndarray:
    """Frames first, as in files; a tensor comes with its channels first."""
    if isinstance(source, Tensor):
        source = source.detach().cpu().float().numpy().T if source.is_floating_point() else source.cpu().numpy().T
    return source


def as_came(result: Float[np.ndarray, "frames channels"], source: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """A result laid out like the array or tensor that was given, which it may exceed in length."""
    if isinstance(source, Tensor):
        made = torch.from_numpy(np.ascontiguousarray(result.T)).to(source)
        return made[0] if source.ndim == 1 else made
    return (result[:, 0] if source.ndim == 1 else result).astype(source.dtype, copy=False)


def given_rate(rate: int | None, source: Any) -> int:
    """The rate that must come with an array.

    Raises:
        InputError: none did.
    """
    if rate is None:
        raise InputError(f"a {type(source).__name__} does not say its rate: pass rate=16000, or whatever it is")
    return rate


def find_device(name: str) -> torch.device:
    """The device of a name; ``"auto"`` takes what is there.

    Raises:
        InputError: there is no such device, or not here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"no device named '{name}': one of cpu, cuda, cuda:0, mps, auto") from None
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    here = there.get(device.type, False)
    if not here or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise InputError(f"the device '{name}' is not available here: use cpu")
    return device
