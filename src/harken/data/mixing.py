"""Noisy and clean pairs made on the fly from folders of clean speech and of noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from harken.data.audio import FORMATS, read
from harken.data.noises import shaped_noise, tilt
from harken.errors import InputError, MissingExtraError

Waveform = NDArray[np.float32]


@dataclass(frozen=True)
class MixConfig:
    """How noisy/clean pairs are made. Probabilities are per item; levels in dB.

    Attributes:
        sample_rate, seconds: of every item.
        snr: range of the signal-to-noise ratio over the part where speech is active.
        babble: probability that the noise is ``talkers`` random crops of the clean recordings at once.
        synthetic: probability of synthesised noise (coloured, modulated, hum) instead of a recording.
        second_noise: probability that a second noise is added to the first.
        tilt: largest random spectral tilt of the noise, dB per octave either way.
        speech_tilt: the same of the speech, target included: microphones and rooms differ.
        speed: range of the playback rate of recorded noise, which makes new noises of old ones.
        band_limit, clip: probability that the pair is low-passed, and that the noisy side is clipped.
        reverb, noise_reverb: probability that the speech, and that the noise is put into a room (either needs ``rooms``
            impulse responses).
    """

    sample_rate: int = 16000
    seconds: float = 1.0
    snr: tuple[float, float] = (-5.0, 20.0)
    babble: float = 0.25
    talkers: tuple[int, int] = (3, 10)
    synthetic: float = 0.25
    second_noise: float = 0.25
    tilt: float = 3.0
    speech_tilt: float = 2.0
    speed: tuple[float, float] = (0.7, 1.4)
    band_limit: float = 0.05
    clip: float = 0.05
    reverb: float = 0.0
    noise_reverb: float = 0.0

    def __post_init__(self) -> None:
        if self.sample_rate < 1 or not 0 < self.seconds < 3600:
            raise InputError(
                f"expected a positive rate and less than an hour, got {self.sample_rate}, {self.seconds} s"
            )
        for name in ("babble", "synthetic", "second_noise", "band_limit", "clip", "reverb", "noise_reverb"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a probability, between 0 and 1, got {getattr(self, name)}")
        for name, lowest in (("snr", -100.0), ("talkers", 1), ("speed", 0.01)):
            low, high = getattr(self, name)
            if not lowest <= low <= high < math.inf:
                raise InputError(f"{name} is a range, low before high, of at least {lowest:g}, got {low:g} to {high:g}")


def audio_files(folder: Path | str) -> list[Path]:
    """Audio files below a folder, in the order of their names.

    Raises:
        InputError: the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"no folder '{folder}'")
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS and path.is_file())


class Recordings:
    """Mono recordings of folders (or single files) in memory at one rate, as 16-bit integers: 115 MB an hour at 16 kHz.

    Args:
        folders: folders, or files.
        sample_rate: of all, in Hz.
        part: from which to which share of each recording is kept, so that splits can share files but no sound.

    Raises:
        InputError: a folder does not exist or holds no audio, or a file cannot be read.
    """

    def __init__(self, folders: Sequence[Path | str], sample_rate: int, part: tuple[float, float] = (0.0, 1.0)):
        self.sample_rate = sample_rate
        self.names: list[str] = []
        self._samples: list[NDArray[np.int16]] = []
        for folder in folders:
            paths = [Path(folder)] if Path(folder).is_file() else audio_files(folder)
            if not paths:
                raise InputError(f"no audio files in '{folder}'")
            for path in paths:
                samples = read(path).mono().resample(sample_rate).samples[:, 0]
                samples = samples[slice(*(round(share * len(samples)) for share in part))]
                peak = float(np.abs(samples).max(initial=0.0))
                if peak < 1e-4:
                    continue
                self.names.append(str(path))
                self._samples.append(np.round(samples * (32000 / peak)).astype(np.int16))
        if not self._samples:
            raise InputError(f"only silence in {', '.join(map(str, folders))}")
        lengths = np.array([len(samples) for samples in self._samples], dtype=np.float64)
        self._weights = lengths / lengths.sum()

    def __len__(self) -> int:
        return len(self._samples)

    @property
    def seconds(self) -> float:
        """Length of all recordings together."""
        return sum(len(samples) for samples in self._samples) / self.sample_rate

    def crop(self, length: int, rng: np.random.Generator) -> Waveform:
        """``length`` samples from a random place of a random recording (longer ones more often); short ones repeat."""
        samples = self._samples[rng.choice(len(self._samples), p=self._weights)]
        if len(samples) < length:
            start = rng.integers(len(samples))
            samples = np.take(samples, np.arange(start, start + length), mode="wrap")
        else:
            start = rng.integers(len(samples) - length + 1)
            samples = samples[start : start + length]
        return samples.astype(np.float32) / np.float32(32768)

    def sounding_crop(self, length: int, rng: np.random.Generator) -> Waveform:
        """A crop in which somebody speaks: the loudest of a few tries when the first is nearly silent."""
        best = self.crop(length, rng)
        for _ in range(4):
            if rms(best) > 0.01:
                break
            other = self.crop(length, rng)
            best = other if rms(other) > rms(best) else best
        return best


class NoisySpeech(Dataset[tuple[Waveform, Waveform]]):
    """Endless, seeded pairs ``(noisy, clean)``: item ``i`` is the same in every process, worker and run.

    Args:
        clean, noise: recordings; ``noise`` may be None when every noise is babble or synthetic.
        config: how pairs are made.
        length: how many items the data set says it has.
        seed: of all of them.
        rooms: impulse responses, needed when ``config.reverb`` or ``config.noise_reverb`` is above zero.
    """

    def __init__(
        self,
        clean: Recordings,
        noise: Recordings | None,
        config: MixConfig | None = None,
        *,
        length: int,
        seed: int = 0,
        rooms: Sequence[Waveform] = (),
    ):
        self.clean, self.noise, self.config = clean, noise, config or MixConfig()
        self.length, self.seed, self.rooms = length, seed, rooms
        if max(self.config.reverb, self.config.noise_reverb) > 0 and not rooms:
            raise InputError("reverb needs room impulse responses: make some with harken.data.rooms.room_responses")

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Waveform, Waveform]:
        if not 0 <= index < self.length:
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, index))
        c = self.config
        samples = round(c.seconds * c.sample_rate)
        clean = self.clean.sounding_crop(samples, rng)
        if c.speech_tilt:
            clean = tilt(clean, rng.uniform(-c.speech_tilt, c.speech_tilt), c.sample_rate)
        noise = self._one_noise(samples, rng)
        if rng.random() < c.second_noise:
            noise = noise + self._one_noise(samples, rng) * np.float32(10 ** (rng.uniform(-10, 0) / 20))
        noise = tilt(noise, rng.uniform(-c.tilt, c.tilt), c.sample_rate)
        clean, direct = self._place(clean, c.reverb, rng)
        noise, _ = self._place(noise, c.noise_reverb, rng)
        noisy = clean + noise * np.float32(noise_gain(clean, noise, rng.uniform(*c.snr), c.sample_rate))
        if rng.random() < c.band_limit:
            cutoff = rng.uniform(3000, 7000)
            noisy, direct = low_pass(noisy, cutoff, c.sample_rate), low_pass(direct, cutoff, c.sample_rate)
        scale = np.float32(10 ** (rng.uniform(-30, 0) / 20) / max(float(np.abs(noisy).max()), 1e-6))
        noisy, direct = noisy * scale, direct * scale
        if rng.random() < c.clip:
            limit = np.abs(noisy).max() * rng.uniform(0.3, 0.9)
            noisy = np.clip(noisy, -limit, limit)
        return noisy.astype(np.float32), direct.astype(np.float32)

    def _one_noise(self, samples: int, rng: np.random.Generator) -> Waveform:
        c = self.config
        kind = rng.random()
        if kind < c.babble:
            talkers = rng.integers(c.talkers[0], c.talkers[1] + 1)
            voices = [self.clean.crop(samples, rng) for _ in range(talkers)]
            noise = sum(v * np.float32(10 ** (rng.uniform(-6, 6) / 20) / max(rms(v), 1e-3)) for v in voices)
        elif kind < c.babble + c.synthetic or self.noise is None:
            noise = shaped_noise(samples, c.sample_rate, rng)
        else:
            rate = rng.uniform(*c.speed)
            source = self.noise.crop(int(samples * rate) + 2, rng)
            noise = np.interp(np.arange(samples) * rate, np.arange(len(source)), source)
        noise = np.asarray(noise, dtype=np.float32)
        return noise / max(rms(noise), 1e-4)

    def _place(self, dry: Waveform, probability: float, rng: np.random.Generator) -> tuple[Waveform, Waveform]:
        """The signal in a random room, and with the reflections of 50 ms only, which an enhancer should give back."""
        if rng.random() >= probability:
            return dry, dry
        try:
            from scipy.signal import fftconvolve
        except ImportError:
            raise MissingExtraError("scipy", extra="rooms") from None
        room = self.rooms[int(rng.integers(len(self.rooms)))]
        early = room[: int(np.abs(room).argmax() + 0.05 * self.config.sample_rate)]
        wet, direct = (fftconvolve(dry, part)[: len(dry)].astype(np.float32) for part in (room, early))
        return wet, direct


def rms(samples: Waveform) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0


def active_rms(samples: Waveform, sample_rate: int) -> float:
    """RMS over the 20 ms frames within 40 dB of the loudest: the level of speech without its pauses."""
    size = max(1, sample_rate // 50)
    frames = samples[: len(samples) // size * size].reshape(-1, size) if len(samples) >= size else samples[None]
    power = np.mean(np.square(frames, dtype=np.float64), axis=1)
    return float(np.sqrt(power[power >= power.max() * 1e-4].mean()))


def noise_gain(clean: Waveform, noise: Waveform, snr: float, sample_rate: int) -> float:
    """The factor that brings ``noise`` to ``snr`` dB below the active level of ``clean``."""
    return active_rms(clean, sample_rate) / max(rms(noise), 1e-8) * 10 ** (-snr / 20)


def low_pass(samples: Waveform, cutoff: float, sample_rate: int) -> Waveform:
    """Low-pass with a raised-cosine edge of 500 Hz, in the frequency domain."""
    frequencies = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    gain = 0.5 * (1 + np.cos(np.pi * np.clip((frequencies - cutoff) / 500, 0, 1)))
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples)).astype(np.float32)
