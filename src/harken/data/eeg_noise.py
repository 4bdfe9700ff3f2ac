"""Clean EEG made dirty: synthetic muscle bursts and blinks at drawn signal-to-noise ratios, to train denoisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from harken.errors import InputError

SNR = Literal["rms10", "power"]
Artefact = Literal["muscle", "blink", "both"]


@dataclass(frozen=True)
class NoiseConfig:
    """How epochs are made dirty.

    Attributes:
        kind: ``"muscle"`` (bursts above 20 Hz), ``"blink"`` (slow bumps), or ``"both"``, one or the other at random.
        lowest, highest: of the signal-to-noise ratio drawn for each epoch, dB.
        snr: what a decibel is. ``"rms10"`` is ``10 log10`` of a ratio of RMS values, as the EEGdenoiseNet benchmark has
            it: its 2 dB are 4 dB of power. ``"power"`` is the textbook's.
        sfreq: samples a second.
    """

    kind: Artefact = "muscle"
    lowest: float = -7.0
    highest: float = 2.0
    snr: SNR = "rms10"
    sfreq: float = 256.0

    def __post_init__(self) -> None:
        if self.kind not in ("muscle", "blink", "both") or self.snr not in ("rms10", "power"):
            raise InputError(f"expected muscle, blink or both, in rms10 or power; got {self.kind!r} in {self.snr!r}")
        if not self.lowest <= self.highest or not self.sfreq > 60:
            raise InputError("expected lowest of at most highest, and a rate above 60 Hz")


def artefacts(
    config: NoiseConfig, count: int, samples: int, generator: torch.Generator
) -> Float[np.ndarray, "count samples"]:
    """Synthetic artefacts of no particular level.

    Muscle: Gaussian noise shaped like surface EMG (rising from 20 Hz, broadly highest at 30 to 80, falling slowly
    beyond), gated by one to four bursts that rise and fall smoothly over a floor. Blinks: one to three asymmetric bumps
    of 0.2 to 0.5 s, of either sign. Real recordings of both are more varied.
    """

    def uniform(low: float, high: float, *size: int) -> np.ndarray:
        return (torch.rand(size or (1,), generator=generator).double() * (high - low) + low).numpy()

    made = np.zeros((count, samples))
    time = np.arange(samples) / config.sfreq
    frequency = np.fft.rfftfreq(samples, 1 / config.sfreq)
    for row in range(count):
        kind = config.kind if config.kind != "both" else ("muscle", "blink")[int(uniform(0, 2)[0])]
        if kind == "blink":
            for _ in range(int(uniform(1, 4)[0])):
                centre, width, lean = uniform(0, time[-1])[0], uniform(0.08, 0.2)[0], uniform(0.7, 1.6)[0]
                side = np.where(time < centre, width, width * lean)
                made[row] += (
                    np.sign(uniform(-1, 1)[0]) * uniform(0.5, 1)[0] * np.exp(-0.5 * ((time - centre) / side) ** 2)
                )
            continue
        noise = torch.randn(samples, generator=generator).double().numpy()
        peak = uniform(30, 80)[0]
        shape = 1 / (1 + (20 / np.maximum(frequency, 1e-3)) ** 8) / (1 + (frequency / (2 * peak)) ** 2)
        envelope = np.full(samples, uniform(0.02, 0.3)[0])
        for _ in range(int(uniform(1, 5)[0])):
            centre, width = uniform(0, time[-1])[0], uniform(0.05, 0.6)[0]
            envelope += uniform(0.3, 1)[0] * np.exp(-0.5 * ((time - centre) / width) ** 2)
        made[row] = np.fft.irfft(np.fft.rfft(noise) * np.sqrt(shape), samples) * envelope
    return made


def mixed(
    clean: Float[np.ndarray, "count samples"],
    noise: Float[np.ndarray, "count samples"],
    snr: Float[np.ndarray, " count"] | float,
    convention: SNR = "rms10",
) -> Float[np.ndarray, "count samples"]:
    """``clean + lambda noise`` at a signal-to-noise ratio in dB; see :class:`NoiseConfig` for the conventions.

    >>> x, n = np.ones((1, 4)), np.full((1, 4), 2.0)
    >>> mixed(x, n, 0.0).tolist()
    [[2.0, 2.0, 2.0, 2.0]]
    """
    ratio = 10 ** (np.asarray(snr, np.float64) / (10 if convention == "rms10" else 20))
    size = np.sqrt((noise**2).mean(1))
    wanted = np.sqrt((clean**2).mean(1)) / ratio
    return clean + noise * (wanted / np.maximum(size, 1e-30))[:, None]


class DirtyEpochs(Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a dirty and a clean epoch, both over the dirty one's standard deviation; index and seed decide them.

    Args:
        clean: epochs to draw from, ``(epochs, samples)``.
        config: how they are made dirty.
        length: how many items there are.
        seed: of the drawing.
    """

    def __init__(self, clean: Float[np.ndarray, "epochs samples"], config: NoiseConfig, *, length: int, seed: int = 0):
        if not len(clean) or not np.isfinite(clean).all():
            raise InputError("expected clean epochs of finite numbers, got none, or NaN among them")
        self.clean, self.config, self.length, self.seed = clean, config, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + index) % 2**62)
        number = int(torch.randint(len(self.clean), (), generator=generator))
        clean = self.clean[number : number + 1].astype(np.float64)
        clean = clean - clean.mean()
        sign = 1 - 2 * int(torch.randint(2, (), generator=generator))
        noise = artefacts(self.config, 1, clean.shape[1], generator)
        share = float(torch.rand((), generator=generator))
        snr = self.config.lowest + share * (self.config.highest - self.config.lowest)
        dirty = mixed(clean, noise, snr, self.config.snr)
        size = float(dirty.std()) or 1.0
        return tuple(torch.from_numpy((sign * x[0] / size).astype(np.float32)) for x in (dirty, clean))  # type: ignore[return-value]


def clean_epochs(x: Float[np.ndarray, "trials channels samples"], samples: int) -> Float[np.ndarray, "epochs samples"]:
    """Every channel of every trial cut into epochs of so many samples, standardised; flat ones left out.

    Raises:
        InputError: the trials are shorter than an epoch, or nothing is left.
    """
    if x.shape[-1] < samples:
        raise InputError(f"expected trials of at least {samples} samples, got {x.shape[-1]}")
    count = x.shape[-1] // samples
    epochs = x[..., : count * samples].reshape(-1, samples).astype(np.float64)
    epochs = epochs - epochs.mean(1, keepdims=True)
    size = epochs.std(1)
    kept = np.isfinite(size) & (size > 1e-3 * np.median(size)) & (size > 0)
    if not kept.any():
        raise InputError("no epoch has a signal in it")
    return (epochs[kept] / size[kept, None]).astype(np.float32)
