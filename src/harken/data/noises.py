"""Noises that are computed: coloured, tonal, modulated. They widen what a small collection of recordings can teach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Waveform = NDArray[np.float32]


def tilt(samples: Waveform, db_per_octave: float, sample_rate: int) -> Waveform:
    """The signal with a spectral slope through 0 dB at 1 kHz; level below 50 Hz, where it would boost without end."""
    frequencies = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    gain = (np.maximum(frequencies, 50.0) / 1000) ** (db_per_octave / 6.0206)
    return np.fft.irfft(np.fft.rfft(samples) * gain, len(samples)).astype(np.float32)


def coloured_noise(samples: int, exponent: float, rng: np.random.Generator) -> Waveform:
    """Gaussian noise with power ``1 / f ** exponent``: 0 white, 1 pink, 2 brown. Unit RMS.

    >>> float(np.round(np.sqrt(np.mean(coloured_noise(8000, 1.0, np.random.default_rng(0)) ** 2)), 3))
    1.0
    """
    spectrum = rng.standard_normal((2, samples // 2 + 1))
    scale = np.maximum(np.arange(samples // 2 + 1), 1.0) ** (-exponent / 2)
    noise = np.fft.irfft((spectrum[0] + 1j * spectrum[1]) * scale, samples)
    return (noise / max(np.sqrt(np.mean(noise**2)), 1e-12)).astype(np.float32)


def average_power(samples: Waveform, n_fft: int = 512) -> np.ndarray:
    """Long-term average power spectrum, ``(n_fft // 2 + 1,)``, of Hann windows that overlap by half.

    >>> average_power(np.ones(2000, np.float32)).argmax()
    np.int64(0)
    """
    samples = np.pad(samples, (0, max(0, n_fft - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, n_fft)[:: n_fft // 2]
    return np.mean(np.abs(np.fft.rfft(frames * np.hanning(n_fft))) ** 2, axis=0)


def noise_with_power(samples: int, power: np.ndarray, rng: np.random.Generator) -> Waveform:
    """Gaussian noise of a power spectrum, :func:`average_power` of speech for speech-shaped noise. Unit RMS."""
    gain = np.interp(np.linspace(0, 1, samples // 2 + 1), np.linspace(0, 1, len(power)), np.sqrt(power))
    noise = np.fft.irfft(np.fft.rfft(rng.standard_normal(samples)) * gain, samples)
    return (noise / max(np.sqrt(np.mean(noise**2)), 1e-12)).astype(np.float32)


def shaped_noise(samples: int, sample_rate: int, rng: np.random.Generator) -> Waveform:
    """Coloured noise through a random smooth spectrum, often with slow swells, now and then with a hum or clicks."""
    # up to brown, and now and then the steeper rumble of vehicles and of wind
    exponent = rng.uniform(-0.5, 2.2) if rng.random() < 0.75 else rng.uniform(2.2, 4.0)
    noise = coloured_noise(samples, exponent, rng).astype(np.float64)
    knots = rng.uniform(-12, 12, rng.integers(3, 12))
    curve = np.interp(np.linspace(0, len(knots) - 1, samples // 2 + 1), np.arange(len(knots)), knots)
    noise = np.fft.irfft(np.fft.rfft(noise) * 10 ** (curve / 20), samples)
    noise /= max(np.sqrt(np.mean(noise**2)), 1e-12)
    if rng.random() < 0.5:  # slow swells, as of passing cars, waves, machines
        points = rng.uniform(-15, 5, max(2, int(samples / sample_rate * rng.uniform(1, 12)) + 1))
        noise *= 10 ** (np.interp(np.linspace(0, len(points) - 1, samples), np.arange(len(points)), points) / 20)
    if rng.random() < 0.2:  # mains hum, engine, ventilator: harmonics of one tone
        time = np.arange(samples) / sample_rate
        base = rng.uniform(45, 400)
        harmonics = np.arange(1, min(20, int(sample_rate / 2 / base)) + 1)
        levels = harmonics ** -rng.uniform(0.5, 2.0)
        phases = rng.uniform(0, 2 * np.pi, len(harmonics))
        hum = (levels[:, None] * np.sin(2 * np.pi * base * harmonics[:, None] * time + phases[:, None])).sum(0)
        noise += hum / max(np.sqrt(np.mean(hum**2)), 1e-12) * rng.uniform(0.3, 3)
    if rng.random() < 0.15:  # clicks: keys, dishes, footsteps
        for start in rng.integers(0, samples, rng.integers(1, 8)):
            length = min(samples - start, int(sample_rate * rng.uniform(0.005, 0.08)))
            decay = np.exp(-np.linspace(0, rng.uniform(3, 9), length))
            noise[start : start + length] += rng.standard_normal(length) * decay * rng.uniform(2, 10)
    return (noise / max(np.sqrt(np.mean(noise**2)), 1e-12)).astype(np.float32)
