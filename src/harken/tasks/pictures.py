"""Before-and-after pictures: waveforms and spectrograms, drawn from sketches that do not grow with length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float

from harken.figures import new_figure, save_figure
from harken.tasks.levels import decibels

_WINDOW, _HOP = 512, 128
_COLUMNS = 1200
_RANGE = 70.0  # dB shown below the loudest bin


class Sketch:
    """A stream's spectrogram and envelope in at most 1200 columns, however long it is.

    Attributes:
        power: mean power per column and frequency, ``(columns, bins)``.
        envelope: least and greatest sample per column, ``(columns, 2)``.
    """

    def __init__(self, frames: int, rate: int):
        self.rate, self.seconds = rate, frames / rate
        self._total = max(1, frames // _HOP + 1)
        columns = min(_COLUMNS, self._total)
        self.power = np.zeros((columns, _WINDOW // 2 + 1))
        self.envelope = np.zeros((columns, 2))
        self._hits = np.zeros(columns)
        self._window = np.hanning(_WINDOW + 1)[:-1].astype(np.float32)
        self._held = np.zeros(_WINDOW // 2, np.float32)  # centres the first window on the first sample
        self._hop = 0

    def through(self, blocks: Iterable[Float[np.ndarray, "_ channels"]]) -> Iterator[Float[np.ndarray, "_ channels"]]:
        """The same stream, sketched (the mean of its channels) while it passes."""
        for block in blocks:
            if len(block):
                self._add(block.mean(1, dtype=np.float32))
            yield block
        self._add(np.zeros(_WINDOW // 2, np.float32))

    def _add(self, samples: Float[np.ndarray, " samples"]) -> None:
        held = np.concatenate((self._held, samples))
        hops = max(0, (len(held) - _WINDOW) // _HOP + 1)
        for first in range(0, hops, 4096):
            part = held[first * _HOP : (min(hops, first + 4096) - 1) * _HOP + _WINDOW]
            frames = np.lib.stride_tricks.sliding_window_view(part, _WINDOW)[::_HOP]
            power = np.abs(np.fft.rfft(frames * self._window)) ** 2 * (4 / self._window.sum() ** 2)
            column = (self._hop + np.arange(len(frames))) * len(self._hits) // self._total
            column = np.minimum(column, len(self._hits) - 1)
            middle = frames[:, (_WINDOW - _HOP) // 2 : (_WINDOW + _HOP) // 2]
            first_of = np.flatnonzero(np.diff(column, prepend=-1))  # columns come in order: sum run by run
            rows = column[first_of]
            self.power[rows] += np.add.reduceat(power, first_of)
            self._hits[rows] += np.diff(first_of, append=len(column))
            least, greatest = np.minimum.reduceat(middle.min(1), first_of), np.maximum.reduceat(middle.max(1), first_of)
            self.envelope[rows, 0] = np.minimum(self.envelope[rows, 0], least)
            self.envelope[rows, 1] = np.maximum(self.envelope[rows, 1], greatest)
            self._hop += len(frames)
        self._held = held[hops * _HOP :]

    @property
    def decibels(self) -> Float[np.ndarray, "bins columns"]:
        """Mean power per bin, dB; a full-scale sine shows as 0 dB."""
        return decibels(self.power / np.maximum(self._hits, 1)[:, None]).T


def draw_before_after(before: Sketch, after: Sketch, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw both sketches side by side into a picture (PNG, or what the extension says), on one time and one dB scale.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(10, 4)
    axes = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[1, 4])
    loudest = max(before.decibels.max(), after.decibels.max())
    peak = max(1e-3, float(np.abs(before.envelope).max()), float(np.abs(after.envelope).max()))
    for sketch, name, (wave, spectrum) in zip((before, after), ("before", "after"), axes.T, strict=True):
        time = (np.arange(len(sketch.envelope)) + 0.5) * sketch.seconds / len(sketch.envelope)
        wave.fill_between(time, *sketch.envelope.T, color="#30506a", linewidth=0.3)
        wave.set_title(name, fontsize=11)
        wave.set_ylim(-peak, peak)
        wave.set_axis_off()
        wave.title.set_visible(True)
        spectrum.imshow(
            sketch.decibels,
            origin="lower",
            aspect="auto",
            extent=(0, sketch.seconds, 0, sketch.rate / 2000),
            vmin=loudest - _RANGE,
            vmax=loudest,
            cmap="magma",
            interpolation="antialiased",
        )
        spectrum.set_xlabel("time (s)")
    axes[1, 0].set_ylabel("frequency (kHz)")
    figure.colorbar(axes[1, 1].images[0], ax=axes[1, :], label="level (dB)", fraction=0.03, pad=0.01)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
