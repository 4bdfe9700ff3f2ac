"""Writes tests/parity/efr-coherence: the published chain on made-up signals, by SciPy alone.

python tests/models/brain/make_efr_case.py

The recordings of the original case do not ship; this one has its layout, its configuration and its names.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from scipy import signal

FOLDER = Path(__file__).parents[2] / "parity/efr-coherence"
NAMES = ("Cz", "P4", "F8", "T7")
AUDIO, EEG, SECONDS = 4000, 200, 6


def fir(transition: float, cutoff: float | list[float], pass_zero: bool) -> np.ndarray:
    count = round(3.3 * AUDIO / transition)
    return signal.firwin(count + 1 - count % 2, cutoff, width=transition, pass_zero=pass_zero, fs=AUDIO)


def peaks(values: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    found = signal.find_peaks(values, distance=10, height=0.5 * values.max() * values.mean() / values.std())[0]
    return (frequencies[found] if len(found) else np.array([-1.0])).astype(np.float32)


def main() -> None:
    rng = np.random.default_rng(7)
    time = np.arange(AUDIO * SECONDS) / AUDIO
    syllables = 1 + 0.8 * np.sin(2 * np.pi * 4 * time + np.cumsum(rng.standard_normal(len(time))) / 200)
    audio = (syllables * (np.sin(2 * np.pi * 180 * time) + 0.5 * rng.standard_normal(len(time)))).astype(np.float32)
    noise = np.cumsum(rng.standard_normal((4, EEG * SECONDS)), 1) + 5 * rng.standard_normal((4, EEG * SECONDS))
    eeg = (10 * noise + 20 * np.sin(2 * np.pi * 50 * np.arange(EEG * SECONDS) / EEG)).astype(np.float32)
    band = signal.filtfilt(fir(10, [1, 1000], False), 1, audio.astype(np.float64), padlen=0)
    envelope = signal.filtfilt(fir(20, 100, True), 1, np.abs(signal.hilbert(band)))
    followed = np.interp(np.arange(EEG * SECONDS) / EEG, time, envelope / envelope.max())
    cleaned = signal.filtfilt(*signal.iirnotch(50, 30, EEG), eeg.astype(np.float64))
    cleaned = signal.filtfilt(*signal.butter(5, [1, 95], "bandpass", fs=EEG), cleaned)
    options = {"fs": EEG, "nperseg": 200, "noverlap": 100, "nfft": 200}
    frequencies, _, of_eeg = signal.stft(cleaned, **options)
    of_envelope = signal.stft(followed, **options)[2]
    transfer = of_eeg / of_envelope
    averaged = np.abs(transfer).mean(-1)
    pairs = list(combinations(range(4), 2))
    density = np.array([np.abs((transfer[a] * transfer[b].conj()).sum(-1)) for a, b in pairs])
    power = (np.abs(transfer) ** 2).sum(-1)
    arrays = {
        "audio": audio,
        "eeg_raw": eeg,
        "envelope": envelope,
        "envelope_eeg": followed,
        "eeg_filtered": cleaned,
        "freqs": frequencies,
        "H_re": transfer.real,
        "H_im": transfer.imag,
        "tafr": averaged,
        "mean_phase": (np.angle(of_eeg) - np.angle(of_envelope)).mean(-1),
        "csd": density,
        "coefficient": density / np.sqrt([power[a] * power[b] for a, b in pairs]),
    }
    arrays |= {f"peaks_tafr_{name}": peaks(row, frequencies) for name, row in zip(NAMES, averaged, strict=True)}
    for (a, b), row in zip(pairs, density, strict=True):
        arrays[f"peaks_csd_{NAMES[a]}_{NAMES[b]}"] = peaks(row, frequencies)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(a, dtype=np.float32) for name, a in arrays.items()}, FOLDER / "io.safetensors"
    )
    case = {
        "slug": "efr-coherence",
        "source": "made by tests/models/brain/make_efr_case.py with SciPy, on synthetic signals",
        "config": {"fs_eeg": EEG, "fs_audio": AUDIO, "nperseg": 200, "noverlap": 100, "nfft": 200},
        "tolerance": 0.002,
    }
    (FOLDER / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
