"""Attend: brain signals and two talkers in, which of them is listened to out, with what is heard of the scene."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int

from harken.data.brain import Recording
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.score.loudness import integrated_loudness
from harken.signal.speech_features import speech_envelope
from harken.signal.voice_measures import median_pitch, syllable_rate

if TYPE_CHECKING:
    from harken.models.brain.envelope_decoder import EnvelopeDecoder

Progress = Callable[[float, str], None]
Stream = Float[np.ndarray, " samples"]
RATE = 16000  # of audio, Hz
WINDOWS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0)  # seconds that a decision may take
_HIGH_VOICE = 155.0  # Hz: between most men's and most women's


@dataclass(frozen=True)
class Voice:
    """What can be measured of a talker.

    Attributes:
        label: A, B, …
        pitch: median fundamental frequency, Hz; NaN where nothing is voiced.
        tempo: syllables a second.
        loudness: LUFS (ITU-R BS.1770).
    """

    label: str
    pitch: float
    tempo: float
    loudness: float

    def text(self) -> str:
        """In words.

        >>> Voice("A", 210.0, 4.1, -23.0).text()
        'talker A: a high voice (210 Hz), 4.1 syllables a second, -23 LUFS'
        """
        height = "a voice of unknown pitch"
        if math.isfinite(self.pitch):
            height = f"a {'high' if self.pitch > _HIGH_VOICE else 'low'} voice ({self.pitch:.0f} Hz)"
        level = f"{self.loudness:.0f} LUFS" if math.isfinite(self.loudness) else "silent"
        return f"talker {self.label}: {height}, {self.tempo:.1f} syllables a second, {level}"


@dataclass(frozen=True)
class Attended:
    """Who was listened to.

    Attributes:
        window: seconds of a decision.
        correlations: of the reconstructed envelope with each talker's, ``(windows, talkers)``.
        voices: the talkers.
        accuracy: share of right decisions by window length, where the truth is known, each judged by a decoder that was
            not fitted on it; empty otherwise.
        truth: the talker who was attended, where it is known.
        notes: what a reader should know.
    """

    window: float
    correlations: Float[np.ndarray, "windows talkers"]
    voices: tuple[Voice, ...]
    accuracy: dict[float, float] = field(default_factory=dict)
    truth: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def decisions(self) -> Int[np.ndarray, " windows"]:
        """Window by window."""
        return self.correlations.argmax(1)

    @property
    def talker(self) -> int:
        """The one who fits best over the whole recording."""
        return int(self.correlations.mean(0).argmax())

    def text(self) -> str:
        """The scene in words."""
        share = float((self.decisions == self.talker).mean())
        lines = [
            f"attended: talker {self.voices[self.talker].label}, in {share:.0%} of windows of {self.window:g} s",
            *(voice.text() for voice in self.voices),
        ]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "attended": self.voices[self.talker].label,
            "window_seconds": self.window,
            "mean_correlation": dict(
                zip((v.label for v in self.voices), self.correlations.mean(0).tolist(), strict=True)
            ),
            "decisions": [self.voices[number].label for number in self.decisions.tolist()],
            "correlations": self.correlations.tolist(),
            "accuracy_by_window_seconds": {f"{seconds:g}": share for seconds, share in self.accuracy.items()},
            "chance": 1 / len(self.voices),
            "truth": None if self.truth is None else self.voices[self.truth].label,
            "voices": [
                {
                    "label": voice.label,
                    "pitch_hz": voice.pitch if math.isfinite(voice.pitch) else None,
                    "syllables_per_second": voice.tempo,
                    "loudness_lufs": voice.loudness if math.isfinite(voice.loudness) else None,
                }
                for voice in self.voices
            ],
            "notes": list(self.notes),
        }


def describe_voices(streams: Sequence[Stream]) -> tuple[Voice, ...]:
    """Measure talkers, mono at 16 kHz."""
    made = []
    for number, samples in enumerate(streams):
        wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
        loud = float(integrated_loudness(wave, RATE)) if len(wave) > RATE // 2 else -math.inf
        made.append(Voice(chr(ord("A") + number), median_pitch(wave, RATE), syllable_rate(wave, RATE), loud))
    return tuple(made)


def attend(
    recording: Recording,
    streams: Sequence[Stream],
    decoder: EnvelopeDecoder,
    *,
    window: float = 10.0,
    lead: float = 0.0,
) -> Attended:
    """Which talker a recording follows, by a decoder that was fitted on other recordings of the listener.

    Args:
        recording: of the brain.
        streams: the talkers, mono at 16 kHz, beginning together.
        decoder: of envelopes.
        window: seconds of a decision.
        lead: seconds of the recording before the sound began.

    Raises:
        InputError: fewer than two talkers, or less sound and signal together than a window.
    """
    x, envelopes = _aligned(recording, streams, decoder.sfreq, lead)
    return Attended(window, _windowed(decoder, x, envelopes, window), describe_voices(streams))


def train_decoder(
    recording: Recording,
    streams: Sequence[Stream],
    attended: int,
    *,
    window: float = 10.0,
    trial: float = 20.0,
    sfreq: float = 64.0,
    lead: float = 0.0,
    progress: Progress | None = None,
) -> tuple[EnvelopeDecoder, Attended]:
    """A decoder from a recording of known attention, and how well such decoders do on trials they have not seen.

    The recording is cut into trials; each is judged by a decoder of the others. The one returned is fitted on all.

    Args:
        recording, streams, lead: as in :func:`attend`.
        attended: the number of the talker who was listened to.
        window: seconds of a decision; trial: of a trial, at least a window.
        sfreq: rate that all is brought to.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: less than three trials, or no such talker.
    """
    from harken.models.brain.envelope_decoder import EnvelopeDecoder

    if not 0 <= attended < len(streams):
        raise InputError(f"there is no talker {attended + 1}: {len(streams)} were given")
    x, envelopes = _aligned(recording, streams, sfreq, lead)
    length = round(max(trial, window) * sfreq)
    count = x.shape[1] // length
    if count < 3:
        raise InputError(
            f"{x.shape[1] / sfreq:.0f} s make {count} trials of {length / sfreq:g} s: at least 3 are needed to train "
            "and judge; give a longer recording, or --decoder"
        )
    trials = np.stack([x[:, i * length : (i + 1) * length] for i in range(count)])
    heard = np.stack([envelopes[:, i * length : (i + 1) * length] for i in range(count)])
    lengths = sorted({*(seconds for seconds in WINDOWS if seconds <= length / sfreq), window})
    right: dict[float, list[float]] = {seconds: [] for seconds in lengths}
    correlations = []
    for number in range(count):
        others = np.arange(count) != number
        fold = EnvelopeDecoder(sfreq=sfreq).fit(trials[others], heard[others, attended])
        for seconds in lengths:
            rows = _windowed(fold, trials[number], heard[number], seconds)
            right[seconds] += (rows.argmax(1) == attended).tolist()
            if seconds == window:
                correlations.append(rows)
        if progress is not None:
            progress((number + 1) / (count + 1), f"trial {number + 1} of {count}")
    decoder = EnvelopeDecoder(sfreq=sfreq).fit(trials, heard[:, attended])
    accuracy = {seconds: float(np.mean(values)) for seconds, values in right.items()}
    return decoder, Attended(window, np.concatenate(correlations), describe_voices(streams), accuracy, attended)


def draw_attention(found: Attended, path: str | os.PathLike[str]) -> None:
    """Correlation with each talker over time, and accuracy against the length of a window where the truth is known.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(9.5, 3.6)
    parts = figure.subplots(1, 2, width_ratios=[1.6, 1]) if found.accuracy else [figure.subplots(1, 1)]
    time = (np.arange(len(found.correlations)) + 0.5) * found.window
    for number, (voice, colour) in enumerate(
        zip(found.voices, ("#30506a", "#d07a2c", "#7a9a5b", "#9b6a9c"), strict=False)
    ):
        parts[0].plot(
            time, found.correlations[:, number], color=colour, marker="o", markersize=3, label=f"talker {voice.label}"
        )
    parts[0].axhline(0, color="#bbbbbb", linewidth=0.8)
    parts[0].set(xlabel="seconds", ylabel="correlation with the reconstruction")
    parts[0].set_title(found.text().splitlines()[0], fontsize=9)
    parts[0].legend(frameon=False, fontsize=8)
    if found.accuracy:
        seconds, shares = zip(*sorted(found.accuracy.items()), strict=True)
        parts[1].plot(seconds, shares, color="#30506a", marker="o")
        parts[1].axhline(1 / len(found.voices), color="#888888", linestyle="--", linewidth=1)
        parts[1].set(xlabel="seconds of a window", ylabel="right decisions", ylim=(0, 1.03), xscale="log")
        parts[1].set_xticks(seconds, [f"{one:g}" for one in seconds], fontsize=8)
        parts[1].minorticks_off()
    if found.notes:
        figure.suptitle("; ".join(found.notes), fontsize=8)
    save_figure(figure, path)


def extract_voices(
    mixture: str | os.PathLike[str], examples: Sequence[str | os.PathLike[str]], *, progress: Any = None
) -> list[Stream]:
    """The talkers of a mixture, each kept by harken's extractor from an example of the voice; mono at 16 kHz.

    Raises:
        InputError: a file that cannot be read, or a useless example.
    """
    from harken.data.audio import read
    from harken.tasks.extract import extract

    heard = read(mixture).mono()
    return [extract(heard, [str(one)], progress=progress).mono().resample(RATE).samples[:, 0] for one in examples]


def _aligned(
    recording: Recording, streams: Sequence[Stream], sfreq: float, lead: float
) -> tuple[Float[np.ndarray, "channels samples"], Float[np.ndarray, "talkers samples"]]:
    """Signals and envelopes at one rate, from where the sound begins to where the first of them ends."""
    if len(streams) < 2:
        raise InputError("there must be two talkers or more to choose from")
    x = recording.resampled(sfreq).data[:, max(0, round(lead * sfreq)) :]
    envelopes = [speech_envelope(torch.from_numpy(np.ascontiguousarray(s)), RATE, sfreq).numpy() for s in streams]
    length = min(x.shape[1], *(len(one) for one in envelopes))
    if length < 2:
        raise InputError("the recording ends before the sound begins: look at --lead")
    return x[:, :length], np.stack([one[:length] for one in envelopes])


def _windowed(
    decoder: EnvelopeDecoder, x: np.ndarray, envelopes: np.ndarray, seconds: float
) -> Float[np.ndarray, "windows talkers"]:
    """Correlations window by window; one after the other, a rest is left out."""
    length = round(seconds * decoder.sfreq)
    count = x.shape[1] // max(1, length)
    if length < 2 or count < 1:
        raise InputError(f"{x.shape[1] / decoder.sfreq:.1f} s hold no window of {seconds:g} s: ask for a shorter one")
    cut = np.stack([x[:, i * length : (i + 1) * length] for i in range(count)])
    heard = np.stack([envelopes[:, i * length : (i + 1) * length] for i in range(count)])
    return decoder.correlations(cut, heard)
