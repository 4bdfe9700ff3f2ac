"""Changing the rate of sound that is still arriving, with a delay of half a millisecond instead of soxr's hundred."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

_CROSSINGS = 8  # zero crossings of the sinc on each side: the delay, in samples of the lower rate
_EDGE = 0.94  # of half the lower rate: where the low-pass begins to fall
_BETA = 7.0  # of the Kaiser window: aliases 70 dB down


class LiveResampler:
    """A windowed sinc at every phase that the two rates meet at; aligned, so that what comes out belongs to what came.

    Args:
        source, target: in Hz.
        channels: how many.

    >>> live = LiveResampler(48000, 16000, 1)
    >>> made = [live.push(np.ones((384, 1), np.float32)) for _ in range(3)] + [live.flush()]
    >>> [len(part) for part in made]
    [120, 128, 128, 8]
    """

    def __init__(self, source: int, target: int, channels: int):
        common = math.gcd(source, target)
        self.up, self.down = target // common, source // common
        scale = min(1.0, target / source)
        self.half = math.ceil(_CROSSINGS / scale)
        place = np.arange(1 - self.half, self.half + 1) - np.arange(self.up)[:, None] / self.up
        inside = np.clip(1 - (place / self.half) ** 2, 0, None)
        taps = np.sinc(place * scale * _EDGE) * np.i0(_BETA * np.sqrt(inside))
        self.taps = (taps / taps.sum(1, keepdims=True)).astype(np.float32)  # (phases, taps)
        self.held = np.zeros((self.half - 1, channels), np.float32)
        self.first = 1 - self.half  # which sample of the source the held ones begin with
        self.came = self.made = 0

    def push(self, samples: Float[np.ndarray, "_ channels"]) -> Float[np.ndarray, "_ channels"]:
        """The next samples in, what is settled out."""
        self.came += len(samples)
        return self._ready(samples)

    def flush(self) -> Float[np.ndarray, "_ channels"]:
        """The rest."""
        missing = max(0, round(self.came * self.up / self.down) - self.made)
        silence = np.zeros((self.half + self.down, self.held.shape[1]), np.float32)
        return self._ready(silence)[:missing]

    def _ready(self, samples: np.ndarray) -> np.ndarray:
        self.held = np.concatenate((self.held, samples))
        last = self.first + len(self.held) - 1 - self.half  # the last sample of the source that has all after it
        count = max(0, (last * self.up + self.up - 1) // self.down + 1 - self.made)
        number = self.made + np.arange(count)
        base, phase = np.divmod(number * self.down, self.up)
        windows = base[:, None] - self.half + 1 - self.first + np.arange(2 * self.half)
        found = np.einsum("ot,otc->oc", self.taps[phase], self.held[windows])
        self.made += count
        gone = max(0, (self.made * self.down) // self.up - self.half + 1 - self.first)
        self.held, self.first = self.held[gone:], self.first + gone
        return found.astype(np.float32)
