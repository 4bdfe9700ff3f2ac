"""Simulated listeners to real speech: trials for demonstrations and experiments that say what they are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from harken.data.brain import Recording
from harken.data.brain_speech import SpeechTrials, cut_segments, joined_speech
from harken.data.simulated_listening import SIMULATED, SimulatedListener, pink_noise, with_noise
from harken.errors import InputError
from harken.tasks.brain_speech import RATE, mel_of


def simulate_listening(
    speech: Sequence[Float[np.ndarray, " samples"]],
    *,
    noise: Recording | None = None,
    part: tuple[float, float] = (0.0, 1.0),
    listeners: int = 4,
    snr: float = -5.0,
    sfreq: float = 64.0,
    bands: int = 40,
    seconds: float = 3.0,
    step: float | None = None,
    sources: int = 16,
    seed: int = 0,
    draw: int = 0,
) -> SpeechTrials:
    """Segments of speech with the responses of simulated listeners to it, in recorded EEG or in pink noise.

    Args:
        speech: mono, 16 kHz, as many recordings as there are.
        noise: a real recording that the responses are added to; pink noise of 32 channels when None.
        part: from which to which share of the noise is taken.
        listeners, sources: how many people, and how many sources in each.
        snr: decibels, averaged over channels.
        sfreq, bands: of signals and features.
        seconds, step: of the segments.
        seed: of the people; draw: of the noise they are heard in.
    """
    rng = np.random.default_rng((seed, 1, draw))
    recorded = None
    if noise is not None:
        recorded = noise.resampled(sfreq)
        first, last = (round(share * recorded.data.shape[1]) for share in part)
        recorded = Recording(recorded.data[:, first:last], sfreq, recorded.ch_names, positions=recorded.positions)
    people = simulated_people(recorded, listeners, bands=bands, sfreq=sfreq, sources=sources, seed=seed)
    names = recorded.ch_names if recorded is not None else tuple(str(i + 1) for i in range(32))
    parts = []
    for source, samples in enumerate(speech):
        mel = mel_of(samples, sfreq, bands)
        if mel.shape[1] < round(seconds * sfreq):
            continue
        for who, person in enumerate(people):
            centred = (mel - mel.mean(1, keepdims=True)) / mel.std()
            around = _noise(rng, recorded, len(names), mel.shape[1])
            made = Recording(with_noise(person.respond(centred), around, snr), sfreq, names, name=f"listener {who}")
            parts.append(cut_segments(made, mel, seconds=seconds, step=step, subject=who, source=source))
    if not parts:
        raise InputError(f"no recording of speech is as long as a segment of {seconds:g} s")
    trials = joined_speech(parts)
    kind = "recorded EEG" if noise is not None else "pink noise"
    return SpeechTrials(
        trials.x, trials.speech, trials.subject, trials.source, trials.onset, sfreq, names,
        note=f"{SIMULATED} ({kind}, {snr:g} dB, {listeners} simulated listeners)",
    )  # fmt: skip


def simulated_people(
    recorded: Recording | None, listeners: int, *, bands: int, sfreq: float, sources: int = 16, seed: int = 0
) -> list[SimulatedListener]:
    """Listeners who share what their sources hear and differ in where the sources are."""
    from harken.models.brain.sensor_layout import sensor_layout

    if recorded is None:
        layout = np.random.default_rng((seed, 2)).uniform(0, 1, (32, 2))
    else:
        layout = sensor_layout(len(recorded.ch_names), recorded.positions, recorded.ch_names)
    rng = np.random.default_rng((seed, 0))
    first = SimulatedListener.draw(rng, features=bands, positions=layout, sfreq=sfreq, sources=sources)
    return [first, *(first.moved(rng, layout) for _ in range(listeners - 1))]


def speech_files(
    folders: Sequence[str | os.PathLike[str]], limit: int | None = None
) -> list[Float[np.ndarray, " samples"]]:
    """Mono speech at 16 kHz of audio files and of folders of them.

    Raises:
        InputError: there are none.
    """
    from harken.data.audio import read
    from harken.data.mixing import audio_files

    paths = [p for folder in folders for p in ([Path(folder)] if Path(folder).is_file() else audio_files(Path(folder)))]
    if not paths:
        raise InputError("no audio files were found: give WAV, FLAC, OGG or MP3 files, or a folder of them")
    return [read(path).mono().resample(RATE).samples[:, 0] for path in paths[:limit]]


def synthetic_speech(count: int, seconds: float, seed: int = 0) -> list[Float[np.ndarray, " samples"]]:
    """Noise in syllables of changing colour: nobody speaks, but its mel bands move as those of speech do."""
    made = []
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        samples = round(seconds * RATE)
        time = np.arange(samples) / RATE
        whole, frequency = np.fft.rfft(rng.standard_normal(samples)), np.fft.rfftfreq(samples, 1 / RATE)
        coloured = np.zeros(samples)
        for low, high in ((100, 600), (600, 1800), (1800, 5000)):
            spectrum = np.where((frequency >= low) & (frequency < high), whole, 0)
            knots = rng.exponential(1.0, max(4, round(5 * seconds)))
            coloured += np.fft.irfft(spectrum, samples) * np.interp(time, np.linspace(0, seconds, len(knots)), knots)
        made.append((0.1 * coloured / coloured.std()).astype(np.float32))
    return made


def _noise(rng: np.random.Generator, recorded: Recording | None, channels: int, frames: int) -> np.ndarray:
    if recorded is None:
        return 1e-5 * pink_noise(rng, channels, frames)
    length = recorded.data.shape[1]
    start = int(rng.integers(length))
    return np.take(recorded.data, np.arange(start, start + frames), axis=1, mode="wrap")


def simulate_attention(
    streams: Sequence[Float[np.ndarray, " samples"]],
    attended: int,
    *,
    noise: Recording | None = None,
    person: SimulatedListener | None = None,
    ignored: float = 0.3,
    snr: float = -5.0,
    sfreq: float = 64.0,
    bands: int = 40,
    seed: int = 0,
    draw: int = 0,
) -> Recording:
    """What a simulated listener to several talkers would show: the attended one, and a part of the others, in noise.

    Args:
        streams: mono, 16 kHz, one a talker.
        attended: the number of the one listened to.
        noise: a real recording at ``sfreq`` that the response is added to; pink noise of 32 channels when None.
        person: the listener; drawn from ``seed`` when None.
        ignored: how strongly the others are followed, 1 being as strongly.
        snr, sfreq, bands, seed, draw: as in :func:`simulate_listening`.
    """
    if not 0 <= attended < len(streams):
        raise InputError(f"there is no talker {attended}: {len(streams)} were given")
    one = person or simulated_people(noise, 1, bands=bands, sfreq=sfreq, seed=seed)[0]
    mels = [mel_of(samples, sfreq, bands) for samples in streams]
    frames = min(mel.shape[1] for mel in mels)
    # the ear's own zero is silence: how loud a band is on the whole is a part of the response
    heard = sum(
        (1.0 if number == attended else ignored) * one.respond(mel[:, :frames] - np.log(1e-5))
        for number, mel in enumerate(mels)
    )
    names = noise.ch_names if noise is not None else tuple(str(i + 1) for i in range(32))
    around = _noise(np.random.default_rng((seed, 3, draw)), noise, len(names), frames)
    return Recording(with_noise(np.asarray(heard), around, snr), sfreq, names, name=f"simulated, attends {attended}")
