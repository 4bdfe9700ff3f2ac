"""Make the samples from Asterisk's voice prompts, mixing real voices with other voices and with synthetic noises.

Prompts: the Debian packages asterisk-core-sounds-en-g722 and asterisk-core-sounds-fr-g722, unpacked with ``dpkg -x``.
Decoding G.722 needs PyAV (``pip install av``), which harken itself does not.

    python samples/make_samples.py FOLDER_OF_UNPACKED_PROMPTS
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np

from harken.data.audio import Audio, write

RATE = 16000
HERE = Path(__file__).parent
SHIPPED = HERE.parent / "src" / "harken" / "data" / "samples"  # the pair that travels inside the package


def decode(path: Path) -> np.ndarray:
    """A G.722 prompt as float32 samples at 16 kHz."""
    with av.open(str(path), format="g722") as file:
        frames = [frame.to_ndarray().reshape(-1) for frame in file.decode(audio=0)]
    return np.concatenate(frames).astype(np.float32) / 32768


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence at both ends."""
    loud = np.flatnonzero(np.abs(samples) > 0.01)
    return samples[max(0, loud[0] - 800) : loud[-1] + 1600]


def speech(folder: Path, names: list[str], gap: float = 0.35) -> np.ndarray:
    """Prompts one after the other, with pauses before, between and after."""
    pause = np.zeros(round(gap * RATE), np.float32)
    parts = [pause]
    for name in names:
        parts += [trimmed(decode(next(folder.rglob(f"{name}.g722")))), pause]
    return np.concatenate(parts)


def babble(folder: Path, frames: int, voices: int, rng: np.random.Generator) -> np.ndarray:
    """All long prompts of a folder in as many shuffled rows as there are voices, levels within 3 dB, summed."""
    paths = [path for path in sorted(folder.glob("*.g722")) if path.stat().st_size > 24_000 and path.stem[:3] != "tt-"]
    prompts = [trimmed(decode(path)) for path in paths]
    total = np.zeros(frames, np.float32)
    for _ in range(voices):
        row = np.concatenate([prompts[i] for i in rng.permutation(len(prompts))])
        start = rng.integers(0, len(row) - frames)
        total += row[start : start + frames] * 10 ** (rng.uniform(-3, 3) / 20)
    return total


def coloured(frames: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power falls with frequency to the power of ``slope``, below 40 Hz not at all."""
    spectrum = np.fft.rfft(rng.standard_normal(frames))
    frequency = np.fft.rfftfreq(frames, 1 / RATE)
    return np.fft.irfft(spectrum * np.maximum(frequency, 40) ** (-slope / 2), frames)


def kitchen(frames: int, rng: np.random.Generator) -> np.ndarray:
    """A refrigerator's hum, an extractor's hiss, and crockery."""
    time = np.arange(frames) / RATE
    hum = sum(np.sin(2 * np.pi * 50 * k * time + rng.uniform(0, 6)) / k for k in (1, 2, 3, 5))
    hiss = coloured(frames, 1.0, rng)
    total = 0.3 * hum + 1.5 * hiss / hiss.std()
    for _ in range(round(2.5 * frames / RATE)):
        start = rng.integers(0, frames)
        ring = time[: frames - start]
        clink = sum(np.sin(2 * np.pi * rng.uniform(1500, 6500) * ring) for _ in range(4))
        total[start:] += rng.uniform(1, 5) * clink * np.exp(-ring * rng.uniform(25, 90))
    return total


def fan(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Broadband noise, beating slowly with the blades."""
    noise = coloured(frames, 1.4, rng)
    return noise * (1 + 0.25 * np.sin(2 * np.pi * 11 * np.arange(frames) / RATE))


def save(name: str, clean: np.ndarray, noise: np.ndarray, snr: float, folder: Path) -> None:
    """Mix at a signal-to-noise ratio over the whole file, peak at 0.7, and write both as 16-bit FLAC."""
    noise = noise * np.sqrt(np.mean(clean**2) / np.mean(noise**2)) * 10 ** (-snr / 20)
    scale = 0.7 / np.abs(clean + noise).max()
    for kind, samples in (("noisy", clean + noise), ("clean", clean)):
        write(folder / f"{name}-{kind}.flac", Audio((samples * scale).astype(np.float32), RATE))


def main(prompts: Path) -> None:
    """Write every sample."""
    english = next(prompts.rglob("en_US_f_Allison"))
    french = next(prompts.rglob("fr_CA_f_June"))
    rng = np.random.default_rng(8926)
    voice = speech(english, ["vm-sorry", "vm-whichbox"])
    save("voice-in-babble", voice, babble(french, len(voice), 12, rng), 10.0, SHIPPED)
    voice = speech(french, ["vm-instructions"])
    save("voice-in-kitchen", voice, kitchen(len(voice), rng), 5.0, HERE)
    voice = speech(english, ["vm-tmpexists", "vm-tempgreetactive"])
    save("voice-by-fan", voice, fan(len(voice), rng), 0.0, HERE)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
