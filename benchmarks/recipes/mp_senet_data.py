"""Lay out the training data of the bundled MP-SENet weights: which recordings train, which judge.

    python benchmarks/recipes/mp_senet_data.py DATA PROMPTS MORE OUT

DATA holds the speech/ and noise/ folders named in the model card; PROMPTS the unpacked Debian packages
asterisk-core-sounds-{it,ru}-g722 in it/ and ru/ (needs PyAV to decode G.722: pip install av); MORE further noises, each
in a folder of its own: clones of the repositories in MORE_NOISES, and the unpacked Debian packages openttd-opensfx and
asterisk-moh-opsound-g722. Writes clean/ and noise/ in OUT/train and OUT/held_out. Whole speakers and whole noise
recordings are held out; the English and French prompts (and the Spanish ones, by the English speaker) are not used at
all, because the samples that ship are made of them.
"""

from __future__ import annotations

import csv
import io
import struct
import sys
from pathlib import Path

import numpy as np
import soundfile

from harken.data.mixing import MixConfig, Recordings
from harken.train.enhancement import validation_pairs

HELD_OUT_SPEAKERS = 20  # of librispeech_many_speakers, the last by name
HELD_OUT_READERS = 2  # of librispeech_test_other, likewise
HELD_OUT_NOISES = {"running_tap", "train", "typing", "crowd_cheering", "city"}
PROMPT_MINUTES = 8.0  # of each language
MORE_NOISES = {  # folder in MORE: pattern, seconds kept from the middle of each file
    "ambientsounds": ("*.ogg", 30),  # github.com/Muges/ambientsounds: CC0, CC BY
    "ambient-engine": ("packages/web/public/assets/*.mp3", 30),  # github.com/hsbakshi/ambient-engine: public domain
    "modern-alarm-clock": ("public/sfx/*.mp3", 30),  # github.com/jtgsystems/modern-alarm-clock: CC0
}
SHORTEST_EFFECT = 1.0  # seconds of a sound effect


def main(data: Path, prompts: Path, more: Path, out: Path) -> None:
    """Write the four folders."""
    speech = data / "speech"
    many = sorted((speech / "librispeech_many_speakers").glob("*.flac"))
    place(many[:-HELD_OUT_SPEAKERS], out / "train/clean/librispeech_many")
    place(many[-HELD_OUT_SPEAKERS:], out / "held_out/clean/librispeech_many")
    readers = sorted((speech / "librispeech_test_other").rglob("*.flac"))
    names = sorted({path.name.split("-")[0] for path in readers})
    held = set(names[-HELD_OUT_READERS:])
    place([p for p in readers if p.name.split("-")[0] not in held], out / "train/clean/librispeech_other")
    place([p for p in readers if p.name.split("-")[0] in held], out / "held_out/clean/librispeech_other")
    place(sorted((speech / "kathleen_48k").rglob("*.flac")), out / "train/clean/kathleen")
    place(sorted((speech / "ljspeech_22k").rglob("*.flac")), out / "train/clean/ljspeech")
    for language in ("it", "ru"):
        decode_prompts(prompts / language, out / f"train/clean/prompts_{language}")
    with (data / "noise/index.tsv").open() as file:
        licences = {row["file"]: row["licence"] for row in csv.DictReader(file, delimiter="\t")}
    noises = [data / "noise" / name for name, licence in sorted(licences.items()) if "NC" not in licence]
    place([p for p in noises if p.stem not in HELD_OUT_NOISES], out / "train/noise")
    place([p for p in noises if p.stem in HELD_OUT_NOISES], out / "held_out/noise")
    for folder, (pattern, seconds) in MORE_NOISES.items():
        for path in sorted((more / folder).glob(pattern)):
            samples, rate = soundfile.read(path)
            keep_middle(samples, rate, seconds, out / f"train/noise/{folder}_{path.stem}.flac")
    unpack_effects(more / "openttd-opensfx", out / "train/noise")
    for path in sorted((more / "asterisk-moh-opsound-g722").rglob("*.g722")):  # music on hold
        music = decode_g722(path)[30 * 16000 : 50 * 16000]
        soundfile.write(out / f"train/noise/music_{path.stem}.flac", music, 16000)
    write_pairs(out)


def place(paths: list[Path], folder: Path) -> None:
    """Link files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
        link = folder / f"{path.parent.name}_{path.name}"
        if not link.exists():
            link.symlink_to(path.resolve())
    print(f"{len(paths):4d} files  {folder}")


def write_pairs(out: Path) -> None:
    """The mixtures on which a run is validated, as files: what mp_senet_quality.py scores."""
    held_out = (Recordings([out / "held_out/clean"], 16000), Recordings([out / "held_out/noise"], 16000))
    for kind in ("noisy", "clean"):
        (out / "held_out/pairs" / kind).mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(validation_pairs(held_out, MixConfig(), 24)):
        for kind, samples in zip(("noisy", "clean"), pair, strict=True):
            soundfile.write(out / "held_out/pairs" / kind / f"{number:02d}.flac", samples, 16000)


def decode_prompts(source: Path, folder: Path) -> None:
    """The longest prompts of one voice, up to ``PROMPT_MINUTES``, as FLAC at 16 kHz."""
    folder.mkdir(parents=True, exist_ok=True)
    left = PROMPT_MINUTES * 60
    for path in sorted(source.rglob("*.g722"), key=lambda p: -p.stat().st_size):
        if left <= 0:
            break
        samples = decode_g722(path)
        soundfile.write(folder / f"{path.stem}.flac", samples, 16000)
        left -= len(samples) / 16000
    print(f"{PROMPT_MINUTES - left / 60:.1f} min  {folder}")


def decode_g722(path: Path) -> np.ndarray:
    """The samples of a raw G.722 file, 16 bits at 16 kHz."""
    import av

    with av.open(str(path), format="g722") as container:
        parts = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    return np.concatenate(parts).astype(np.int16)


def keep_middle(samples: np.ndarray, rate: int, seconds: float, path: Path) -> None:
    """Write at most ``seconds`` of mono sound, from the middle."""
    mono = samples if samples.ndim == 1 else samples.mean(1)
    length = min(len(mono), int(seconds * rate))
    start = (len(mono) - length) // 2
    soundfile.write(path, mono[start : start + length], rate)


def unpack_effects(package: Path, folder: Path) -> None:
    """The sounds of OpenTTD's base set that last a second or more; its archive is a table of WAV files."""
    for archive in package.rglob("opensfx.cat"):
        data = archive.read_bytes()
        count = min(struct.unpack_from("<I", data)[0] & 0x7FFFFFFF, len(data)) // 8  # the table ends where data begins
        for number in range(count):
            start = data.find(b"RIFF", struct.unpack_from("<I", data, 8 * number)[0] & 0x7FFFFFFF)
            if start < 0:
                continue
            size = struct.unpack_from("<I", data, start + 4)[0] + 8
            try:
                samples, rate = soundfile.read(io.BytesIO(data[start : start + size]))
            except soundfile.LibsndfileError:
                continue
            if len(samples) >= SHORTEST_EFFECT * rate:
                keep_middle(samples, rate, 5, folder / f"opensfx_{number:02d}.flac")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:5]))
