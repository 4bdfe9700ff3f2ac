"""Simulated listeners: how EEG would follow speech if it were a sum of delayed echoes of its bands. For tests, demos
and experiments that say so; nothing made here is a recording of a brain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float

from harken.errors import InputError

SIMULATED = "semi-simulated: speech is real, the brain's responses to it are computed, and added to noise"


@dataclass(frozen=True)
class SimulatedListener:
    """Causal kernels from speech features to sources, and a mixing of the sources into channels.

    ``response = mixing @ sum_b kernels[:, b] * features[b]``, with ``*`` the convolution in time.

    Attributes:
        kernels: ``(sources, features, lags)``, causal, unit energy a source.
        mixing: ``(channels, sources)``.

    >>> listener = SimulatedListener.draw(np.random.default_rng(0), features=4, positions=np.zeros((8, 2)))
    >>> listener.respond(np.random.default_rng(1).standard_normal((4, 100))).shape
    (8, 100)
    """

    kernels: Float[np.ndarray, "sources features lags"]
    mixing: Float[np.ndarray, "channels sources"]

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        features: int,
        positions: Float[np.ndarray, "channels 2"],
        sfreq: float = 64.0,
        sources: int = 16,
        longest: float = 0.3,
    ) -> Self:
        """A listener whose sources hear smooth ranges of features, with smooth kernels of up to ``longest`` seconds.

        Args:
            rng: decides everything.
            features: rows of the features.
            positions: of the sensors, in [0, 1]: sources reach those near them.
            sfreq: of features and responses.
            sources: how many kernels.
            longest: seconds.
        """
        lags = max(2, round(longest * sfreq))
        time = np.arange(lags) / sfreq
        bumps = np.zeros((sources, lags))
        for sign in (1.0, -1.0):  # a peak and a later trough, as evoked responses have
            centre = rng.uniform(0.03, longest * (0.5 if sign > 0 else 0.95), (sources, 1))
            width = rng.uniform(0.015, 0.05, (sources, 1))
            bumps += sign * rng.uniform(0.4, 1.0, (sources, 1)) * np.exp(-0.5 * ((time - centre) / width) ** 2)
        place = np.linspace(0, 1, features)
        heard = np.exp(-0.5 * ((place - rng.uniform(0, 1, (sources, 1))) / rng.uniform(0.05, 0.3, (sources, 1))) ** 2)
        kernels = heard[:, :, None] * bumps[:, None]
        kernels /= np.sqrt(np.square(kernels).sum((1, 2), keepdims=True))
        home = rng.uniform(0, 1, (sources, 2))
        return cls(kernels, _topography(rng, home, np.asarray(positions)))

    def moved(self, rng: np.random.Generator, positions: Float[np.ndarray, "channels 2"]) -> SimulatedListener:
        """Another person: the same kernels, other places and strengths of the sources."""
        home = rng.uniform(0, 1, (self.mixing.shape[1], 2))
        return SimulatedListener(self.kernels, _topography(rng, home, np.asarray(positions)))

    def respond(self, features: Float[np.ndarray, "features frames"]) -> Float[np.ndarray, "channels frames"]:
        """What the sensors would see of speech with these features, without noise."""
        frames, lags = features.shape[1], self.kernels.shape[2]
        size = 1 << (frames + lags - 1).bit_length()  # a length that is quick to transform
        spectrum = np.fft.rfft(features, size)
        sources = np.einsum("sbf,bf->sf", np.fft.rfft(self.kernels, size), spectrum)
        return self.mixing @ np.fft.irfft(sources, size)[:, :frames]


def with_noise(
    response: Float[np.ndarray, "channels frames"], noise: Float[np.ndarray, "channels frames"], snr: float
) -> Float[np.ndarray, "channels frames"]:
    """A response in noise, at ``snr`` decibels of power, a mean over channels; the noise keeps its size.

    Raises:
        InputError: the shapes differ, or a side is silent.
    """
    if response.shape != noise.shape:
        raise InputError(f"the response has shape {response.shape} and the noise {noise.shape}: expected the same")
    signal, power = float(np.var(response, axis=-1).mean()), float(np.var(noise, axis=-1).mean())
    if not signal > 0 or not power > 0:
        raise InputError("cannot set a signal-to-noise ratio: the response or the noise is flat")
    return (response * np.sqrt(10 ** (snr / 10) * power / signal) + noise).astype(np.float32)


def pink_noise(rng: np.random.Generator, channels: int, frames: int) -> Float[np.ndarray, "channels frames"]:
    """Noise whose power falls with frequency, alike to that of EEG, partly shared among channels."""
    size = 2 * frames
    spectrum = rng.standard_normal((channels, size // 2 + 1)) + 1j * rng.standard_normal((channels, size // 2 + 1))
    spectrum /= np.sqrt(np.arange(size // 2 + 1).clip(1))
    noise = np.fft.irfft(spectrum, size)[:, :frames]
    return (noise + 0.5 * noise.mean(0) * np.sqrt(channels)) / noise.std()


def _topography(
    rng: np.random.Generator, home: Float[np.ndarray, "sources 2"], positions: Float[np.ndarray, "channels 2"]
) -> Float[np.ndarray, "channels sources"]:
    """A two-sided patch around each source's home, as a dipole's, of random direction and strength."""
    angle = rng.uniform(0, 2 * np.pi, len(home))
    away = positions[:, None] - home
    near = np.exp(-0.5 * np.square(away).sum(-1) / 0.25**2)
    along = away[..., 0] * np.cos(angle) + away[..., 1] * np.sin(angle)
    return near * (0.3 + along / 0.25) * rng.uniform(0.5, 1.5, len(home))
