"""A brain recording in, the same without muscle noise and blinks out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harken.data.brain import Recording, flat_channels
from harken.data.brain_files import read_recording
from harken.data.brain_output import write_recording
from harken.errors import InputError, OutputError
from harken.figures import new_figure, save_figure
from harken.models import load
from harken.models.brain.artefact_remover import denoise_at


@dataclass(frozen=True)
class CleanedRecording:
    """What was done to a recording.

    Attributes:
        before, after: of one length, rate and naming.
        removed: RMS of the difference over the RMS of the input, by channel.
        flat: channels without a signal, left as they are.
    """

    before: Recording
    after: Recording
    removed: Float[np.ndarray, " channels"]
    flat: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return {
            "recording": self.before.name,
            "seconds": self.before.seconds,
            "sfreq": self.before.sfreq,
            "removed": dict(zip(self.before.ch_names, map(float, self.removed), strict=True)),
            "flat": list(self.flat),
        }


def denoise_eeg(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    sfreq: float | None = None,
    channels: list[str] | None = None,
    unit: str = "uV",
    overwrite: bool = False,
    progress: Callable[[float, str], None] | None = None,
) -> CleanedRecording:
    """Clean every channel of a recording by AT-AT; rate, length, names and events stay.

    Args:
        source: what :func:`harken.data.brain_files.read_recording` reads.
        out: ``.npz``, ``.fif`` or ``.edf``.
        weights: of an ``eeg-denoiser``; those that ship when None.
        sfreq: rate of a source that does not say.
        channels: which to keep.
        unit: of numbers in a source that does not say.
        overwrite: whether an existing ``out`` may be replaced.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: the recording cannot be read, or holds NaN.
        OutputError: ``out`` exists, or cannot be written.
    """
    if Path(out).exists() and not overwrite:
        raise OutputError(f"'{out}' exists already: pass --overwrite, or choose another name")
    recording = read_recording(source, sfreq=sfreq, channels=channels, unit=unit)
    network: Any = load("eeg-denoiser", None if weights is None else Path(weights))
    if not np.isfinite(recording.data).all():
        where = recording.ch_names[int(np.argwhere(~np.isfinite(recording.data).all(1))[0, 0])]
        raise InputError(f"channel {where} of '{source}' holds NaN or infinite values: leave it out with --channels")
    cleaned = denoise_at(network, recording.data, recording.sfreq, progress)
    after = replace(recording, data=cleaned)
    write_recording(after, out)
    centred = recording.data - recording.data.mean(1, keepdims=True)
    size, change = (np.sqrt(np.square(x, dtype=np.float64).mean(1)) for x in (centred, cleaned - recording.data))
    flat = tuple(recording.ch_names[i] for i in flat_channels(recording.data[None]))
    return CleanedRecording(recording, after, change / np.maximum(size, 1e-30), flat)


def draw_cleaned(cleaned: CleanedRecording, path: str | os.PathLike[str]) -> None:
    """Ten seconds in which most was taken away, up to eight channels, before and after.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    before, after = cleaned.before, cleaned.after
    rate = before.sfreq
    shown = sorted(np.argsort(-cleaned.removed)[:8].tolist())
    length = min(before.data.shape[1], round(10 * rate))
    change = ((before.data - after.data)[shown] ** 2).sum(0, dtype=np.float64)
    sums = np.concatenate(([0.0], np.cumsum(change)))
    start = int(np.argmax(sums[length:] - sums[:-length]))
    time = (start + np.arange(length)) / rate
    figure = new_figure(10, 1 + 0.8 * len(shown))
    axes = figure.subplots()
    parts = [x.data[shown, start : start + length] for x in (before, after)]
    parts = [part - parts[0].mean(1, keepdims=True) for part in parts]
    apart = 4 * float(np.median(parts[0].std(1))) or 1.0
    for row in range(len(shown)):
        axes.plot(time, 1e6 * (parts[0][row] - row * apart), color="#c9a27c", linewidth=0.7)
        axes.plot(time, 1e6 * (parts[1][row] - row * apart), color="#30506a", linewidth=0.9)
    axes.set_yticks([-1e6 * row * apart for row in range(len(shown))], [before.ch_names[i] for i in shown])
    axes.set_xlabel("time (s)")
    axes.set_title(f"{before.name}: before (light) and after; lines {1e6 * apart:.3g} uV apart", fontsize=10)
    axes.margins(x=0)
    save_figure(figure, path)
