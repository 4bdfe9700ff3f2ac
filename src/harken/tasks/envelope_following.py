"""EEG and a sound in, transfer function and coherence out, each with the limit of what chance makes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harken.data.brain import Recording, Trials
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.models.brain.efr import clean_eeg, resample_envelope, speech_envelope
from harken.models.brain.envelope_following import EnvelopeFollowing, aligned
from harken.models.brain.envelope_response import EnvelopeResponse

_PANELS = (
    ("coherence", "coherence with the envelope"),
    ("gain", "|H1| (µV per unit of the envelope)"),
    ("ratio", "mean |X / E|, as published"),
)


def as_trials(recording: Recording) -> Trials:
    """A whole recording as one trial."""
    return Trials(recording.data[None], np.zeros(1, np.int64), ("recording",), recording.sfreq, recording.ch_names)


def envelope_of_audio(path: str | os.PathLike[str], trials: Trials) -> NDArray[np.float64]:
    """The envelope of a sound file at the samples of the EEG: every trial begins with the sound.

    Raises:
        InputError: it cannot be read, is silent, or ends before the EEG does.
    """
    from harken.data.audio import read

    audio = read(str(path))
    envelope = speech_envelope(audio.samples.mean(1).astype(np.float64), float(audio.rate))
    return resample_envelope(envelope, float(audio.rate), trials.sfreq, trials.x.shape[-1])


def read_envelope(path: str | os.PathLike[str], trials: Trials) -> NDArray[np.float64]:
    """An envelope of a file, ``.npy``, or text with a number a row, at the rate of the EEG; cut to its length.

    Raises:
        InputError: it cannot be read, or is shorter than the EEG.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no envelope at '{path}'")
    if path.stat().st_size > 1 << 30:
        raise InputError(f"'{path}' is too large for an envelope")
    try:
        found = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, dtype=np.float64)
        found = np.asarray(found, np.float64)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"'{path}' holds no numbers to read: {str(error)[:100]}") from None
    samples = trials.x.shape[-1]
    if found.ndim not in (1, 2) or found.shape[-1] < samples or (found.ndim == 2 and len(found) != len(trials)):
        shape = f"({samples},) or ({len(trials)}, {samples})"
        raise InputError(f"'{path}' holds an envelope of shape {found.shape}: expected {shape} or longer")
    return found[..., :samples]


def modulation_envelope(hertz: float, trials: Trials, align: str | None = None) -> NDArray[np.float64]:
    """The envelope of a tone whose amplitude is modulated by a sine, one for all trials or moved to fit a channel.

    Args:
        hertz: of the modulation.
        trials: what it is for.
        align: the channel by which it is moved, trial by trial, where markers jitter; leave it out of the conclusions.

    Raises:
        InputError: a modulation the EEG cannot hold, or no such channel.
    """
    if not 0 < hertz < trials.sfreq / 2:
        raise InputError(f"expected a modulation between 0 and {trials.sfreq / 2:g} Hz, got {hertz:g}")
    envelope = 0.5 - 0.5 * np.cos(2 * np.pi * hertz * np.arange(trials.x.shape[-1]) / trials.sfreq)
    if align is None:
        return envelope
    guide = trials.pick([align]).x[:, 0].astype(np.float64)
    return aligned(envelope, guide, trials.sfreq, 1 / hertz)


def follow(
    trials: Trials,
    envelope: NDArray[np.float64],
    model: EnvelopeFollowing,
    *,
    low: float = 1.0,
    high: float = 95.0,
    mains: float | None = 50.0,
) -> EnvelopeResponse:
    """Clean the EEG as published (notch, band-pass, microvolts) and measure how it follows an envelope.

    Raises:
        InputError: shapes, rates or edges that do not fit.
    """
    cleaned = clean_eeg(1e6 * trials.x.astype(np.float64), trials.sfreq, low=low, high=high, mains=mains)
    return model.fit(envelope, replace(trials, x=cleaned)).response_


def draw_response(response: EnvelopeResponse, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw coherence, H1 and the published ratio over frequency, each channel with the limit of chance, dashed.

    Dots mark what is above the limit.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(8, 8)
    panels = figure.subplots(len(_PANELS), 1, sharex=True)
    for axes, (name, label) in zip(panels, _PANELS, strict=True):
        statistic = response.statistics[name]
        for row, channel in enumerate(response.channels):
            (line,) = axes.plot(response.frequencies, statistic.value[row], linewidth=1.2, label=channel)
            colour = line.get_color()
            axes.plot(response.frequencies, statistic.limit[row], "--", color=colour, linewidth=0.8)
            above = statistic.is_found[row]
            axes.plot(response.frequencies[above], statistic.value[row][above], "o", color=colour, markersize=4)
        axes.set_ylabel(label, fontsize=9)
        axes.grid(alpha=0.3)
        if name != "coherence" and statistic.value.min() >= 0 and statistic.value.max() > 0:
            axes.set_yscale("log")
    panels[0].legend(fontsize=8, ncols=2, title=f"dashed: {100 * response.alpha:g} % of chance, anywhere")
    panels[-1].set_xlabel("frequency (Hz)")
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
