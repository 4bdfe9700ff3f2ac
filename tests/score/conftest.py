from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest


def _speechlike(seconds: float = 2.0, rate: int = 16000) -> np.ndarray:
    """Harmonics of a gliding pitch under two moving formants, in bursts with pauses: speech to PESQ and STOI."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 25 * np.sin(2 * np.pi * 0.7 * time)) / rate
    formants = 500 + 250 * np.sin(2 * np.pi * 1.3 * time), 1500 + 500 * np.sin(2 * np.pi * 0.9 * time + 1)
    voice = np.zeros_like(time)
    for k in range(1, int(min(4000, 0.45 * rate) / 145)):
        gain = 0.02 + sum(1 / (1 + ((k * 120 - formant) / 120) ** 2) for formant in formants)
        voice += gain * np.sin(k * phase)
    bursts = np.clip(np.sin(2 * np.pi * 2 * time), 0, None) ** 0.5
    return 0.5 * voice / np.abs(voice).max() * bursts + 1e-4 * np.random.default_rng(0).standard_normal(len(time))


def _noisy(clean: np.ndarray, snr: float) -> np.ndarray:
    noise = np.random.default_rng(1).standard_normal(len(clean))
    return clean + noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2) / 10 ** (snr / 10))


@pytest.fixture
def speechlike() -> Callable[..., np.ndarray]:
    return _speechlike


@pytest.fixture
def noisy() -> Callable[[np.ndarray, float], np.ndarray]:
    return _noisy


@pytest.fixture
def clean() -> np.ndarray:
    return _speechlike()
