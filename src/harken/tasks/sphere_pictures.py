"""Pictures of HRTFs: levels over all directions, measured beside upsampled, and the time between the ears."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np

from harken.data.hrtf import HRIRs, magnitudes
from harken.figures import new_figure, save_figure
from harken.score.hrtf import time_difference

_BANDS = (4000.0, 8000.0, 12000.0)


def draw_spheres(
    sets: Mapping[str, HRIRs],
    path: str | os.PathLike[str],
    *,
    title: str = "",
) -> None:
    """Draw the left ear's level in third-octave bands, and the time between the ears, over azimuth and elevation.

    Args:
        sets: name -> responses, a column each.
        path: of the picture.
        title: above it.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    columns = list(sets.items())
    rate = min(one.rate for _, one in columns)
    bands = [band for band in _BANDS if band * 2 ** (1 / 6) < rate / 2]
    figure = new_figure(4 * len(columns), 2.2 * (len(bands) + 1))
    axes = figure.subplots(len(bands) + 1, len(columns), sharex=True, sharey=True, squeeze=False)
    values = {name: [*_levels(one, bands), 1e6 * time_difference(one.responses, one.rate)] for name, one in columns}
    labels = [f"{band / 1000:g} kHz, left ear (dB)" for band in bands] + ["left earlier by (µs)"]
    for row, label in enumerate(labels):
        shown = np.concatenate([values[name][row] for name, _ in columns])
        is_time = row == len(bands)
        low, high = (-np.abs(shown).max(), np.abs(shown).max()) if is_time else np.percentile(shown, (1, 99))
        for column, (name, one) in enumerate(columns):
            place = axes[row, column]
            azimuth = (one.directions[:, 0] + 180) % 360 - 180
            drawn = place.scatter(
                azimuth,
                one.directions[:, 1],
                c=values[name][row],
                vmin=low,
                vmax=max(high, low + 1e-6),
                cmap="RdBu_r" if is_time else "magma",
                s=max(6.0, min(60.0, 12000.0 / len(one))),
                marker="o" if len(one) < 200 else "s",
                linewidths=0,
            )
            place.set_xlim(180, -180)  # left of the listener is left in the picture
            place.set_ylim(-92, 92)
            place.set_facecolor("#eeeeee")
            if row == 0:
                place.set_title(f"{name} ({len(one)})", fontsize=11)
            if column == 0:
                place.set_ylabel("elevation")
        figure.colorbar(drawn, ax=axes[row, :], label=label, fraction=0.03, pad=0.01)
    for place in axes[-1]:
        place.set_xlabel("azimuth (left is positive)")
        place.set_xticks([180, 90, 0, -90, -180])
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _levels(one: HRIRs, bands: list[float]) -> list[np.ndarray]:
    """Mean level of the left ear in each third-octave band, dB."""
    found = []
    for band in bands:
        frequencies = band * 2 ** np.linspace(-1 / 6, 1 / 6, 9)
        found.append(magnitudes(one, frequencies)[:, : len(frequencies)].mean(1))
    return found
