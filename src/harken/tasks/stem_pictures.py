"""A picture of a mixture and its stems: one spectrogram below the other, on one time and one level."""

from __future__ import annotations

import os
from collections.abc import Mapping

from harken.figures import new_figure, save_figure
from harken.tasks.pictures import Sketch

_RANGE = 70.0  # dB shown below the loudest bin of the mixture


def draw_stems(sketches: Mapping[str, Sketch], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw the sketches, the mixture first, into a picture (PNG, or what the extension says).

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(10, 1.2 + 1.5 * len(sketches))
    rows = figure.subplots(len(sketches), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    loudest = max(sketch.decibels.max() for sketch in sketches.values())
    for axes, (name, sketch) in zip(rows, sketches.items(), strict=True):
        image = axes.imshow(
            sketch.decibels,
            origin="lower",
            aspect="auto",
            extent=(0, sketch.seconds, 0, sketch.rate / 2000),
            vmin=loudest - _RANGE,
            vmax=loudest,
            cmap="magma",
            interpolation="antialiased",
        )
        axes.set_ylabel(f"{name}\nkHz")
    rows[-1].set_xlabel("time (s)")
    figure.colorbar(image, ax=list(rows), label="level (dB)", fraction=0.03, pad=0.01)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
