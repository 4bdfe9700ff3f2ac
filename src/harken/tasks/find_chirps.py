"""Recordings in, the chirps in them out, with a picture; and how well a locator does on synthetic ones."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from harken.data.brain import Recording
from harken.data.chirps import chirp_spectrograms, draw_chirps
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.signal.slow_spectrogram import slow_spectrogram

if TYPE_CHECKING:
    from harken.models.brain.chirp_locator import ChirpLocator
    from harken.models.brain.chirp_traces import FoundChirp

TARGETS = ("start_time", "start_frequency", "end_frequency")
_TEST_SEED = 1 << 50  # beyond every seed of training and validation
_ROWS, _COLUMNS, _MOST_CHANNELS = 100, 600, 6


@dataclass(frozen=True)
class ChirpReport:
    """The chirps of a recording."""

    name: str
    seconds: float
    ch_names: tuple[str, ...]
    chirps: tuple[FoundChirp, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "recording": self.name,
            "seconds": self.seconds,
            "chirps": [{**chirp._asdict(), "channel": self.ch_names[chirp.channel]} for chirp in self.chirps],
        }


@dataclass(frozen=True)
class SyntheticScore:
    """A locator on synthetic pictures that it was not trained on.

    Attributes:
        pictures: how many.
        correlation: Pearson's, of each target, by method.
        error: mean absolute error, seconds and hertz, by method.
    """

    pictures: int
    correlation: dict[str, dict[str, float]]
    error: dict[str, dict[str, float]]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {"pictures": self.pictures, "pearson": self.correlation, "mean_absolute_error": self.error}


def find_chirps(
    locator: ChirpLocator,
    recording: Recording,
    *,
    threshold: float = 6.0,
    progress: Callable[[float, str], None] | None = None,
) -> ChirpReport:
    """The chirps of every channel of a recording that stand out by ``threshold`` (:meth:`ChirpLocator.locate`)."""
    found: list[FoundChirp] = []
    for number, channel in enumerate(recording.data):
        (chirps,) = locator.locate(channel[None, None], recording.sfreq, threshold=threshold)
        found += [chirp._replace(channel=number) for chirp in chirps]
        if progress is not None:
            progress((number + 1) / len(recording.data), f"{len(found)} chirps")
    ordered = tuple(sorted(found, key=lambda chirp: (chirp.start_time, chirp.channel)))
    return ChirpReport(recording.name, recording.seconds, recording.ch_names, ordered)


def judge_on_synthetic(
    locators: dict[str, ChirpLocator], pictures: int, *, seed: int = 0, sub_bin: bool = False
) -> SyntheticScore:
    """Locators on the same synthetic pictures, of the first network's own size, and their guesses refined.

    Raises:
        InputError: fewer than three pictures.
    """
    if pictures < 3:
        raise InputError(f"expected at least 3 pictures to correlate, got {pictures}")
    first = next(iter(locators.values()))
    module: Any = first.module_
    size = module.config.image_size if first.method == "network" else 128
    grid = replace(first.grid, times=size, frequencies=size)
    chirps = draw_chirps(pictures, grid, seed=_TEST_SEED + seed)
    made = chirp_spectrograms(chirps, grid, seed=_TEST_SEED + seed, sub_bin=sub_bin)
    true, correlation, error = chirps.targets(), {}, {}
    guesses = {name: locator.predict(made) for name, locator in locators.items()}
    guesses |= {f"{name}, refined": locator.refine(made)[:, :3] for name, locator in locators.items()}
    for name, guess in guesses.items():
        columns = list(zip(TARGETS, guess.T, true.T, strict=True))
        correlation[name] = {target: pearson(one, other) for target, one, other in columns}
        error[name] = {target: float(np.abs(one - other).mean()) for target, one, other in columns}
    return SyntheticScore(pictures, correlation, error)


def pearson(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's correlation of guessed and true values; 0 where one does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if one.std() and other.std() else 0.0


def draw_chirps_found(
    report: ChirpReport, recording: Recording, path: str | os.PathLike[str], *, max_frequency: float
) -> None:
    """Spectrograms of the channels with the traces that were found on them.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    with_chirps = sorted({chirp.channel for chirp in report.chirps}) or list(range(len(recording.data)))
    shown = with_chirps[:_MOST_CHANNELS]
    figure = new_figure(10, 0.6 + 2.2 * len(shown))
    axes: Any = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    columns = max(2, min(_COLUMNS, recording.data.shape[1] // 4))
    for plot, channel in zip(axes, shown, strict=True):
        signal = torch.from_numpy(np.ascontiguousarray(recording.data[channel], np.float32))
        picture = slow_spectrogram(
            signal, recording.sfreq, max_frequency=max_frequency, rows=_ROWS, columns=columns
        ).numpy()
        picture = picture - np.median(picture, 1, keepdims=True)
        low, high = np.percentile(picture, (5, 99.7))
        extent = (0.0, recording.seconds, 0.0, max_frequency)
        plot.imshow(picture, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high, cmap="viridis")
        for chirp in (found for found in report.chirps if found.channel == channel):
            time, frequency = _trace(chirp)
            plot.plot(time, frequency, color="#ff7f0e", linewidth=1.4, linestyle="--")
            plot.annotate(
                f"{chirp.strength:.0f}", (time[0], frequency[0]), color="white", fontsize=7,
                xytext=(0, 4), textcoords="offset points",
            )  # fmt: skip
        plot.set(ylabel=f"{recording.ch_names[channel]}\nHz", ylim=(0, max_frequency))
    axes[-1].set(xlabel="seconds")
    figure.suptitle(f"{report.name}: {len(report.chirps)} chirps (numbers: strength)", fontsize=10)
    save_figure(figure, path)


def _trace(chirp: FoundChirp) -> tuple[np.ndarray, np.ndarray]:
    share = np.linspace(0, 1, 50)
    low, high = max(chirp.start_frequency, 1e-3), max(chirp.end_frequency, 1e-3)
    frequency = low * (high / low) ** share if chirp.is_exponential else low + (high - low) * share
    return chirp.start_time + share * (chirp.end_time - chirp.start_time), frequency
