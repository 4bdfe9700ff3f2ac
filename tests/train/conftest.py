"""A few seconds of made-up speech and noise, as files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from harken.data.audio import Audio, write
from harken.data.noises import shaped_noise


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """``speech/`` with three voice-like files and ``noise/`` with two, at 16 kHz."""
    folder = tmp_path_factory.mktemp("recordings")
    for name in ("speech", "noise"):
        (folder / name).mkdir()
    time = np.arange(24000) / 16000
    for i in range(3):
        pitch = 100 * (1 + 0.3 * i) * np.exp(0.2 * np.sin(2 * np.pi * 0.7 * time))
        voice = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16000) / k for k in range(1, 15))
        write(folder / "speech" / f"{i}.wav", Audio(0.05 * voice * (1 + np.sin(2 * np.pi * 3 * time)), 16000))
    for i in range(2):
        write(folder / "noise" / f"{i}.wav", Audio(0.05 * shaped_noise(24000, 16000, np.random.default_rng(i)), 16000))
    return folder


@pytest.fixture(autouse=True)
def _an_accelerator_of_its_own() -> Iterator[None]:
    """accelerate keeps its settings for the life of a process; every test starts without."""
    yield
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
