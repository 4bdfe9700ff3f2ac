"""How well do the bundled weights of Demucs take speech from noise, and a rendered song apart?

    python benchmarks/separate_quality.py [--pairs FOLDER] [--tracks FOLDER] [--save FILE.json]

FOLDER of --pairs holds clean/ and noisy/ (files of equal names); the noise is their difference. Each folder in that of
--tracks holds drums, bass and other, whose sum is the song. Means of SI-SDR in dB, of the mixture and of what was made
of it, stem by stem.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import harken
from harken.data.audio import Audio, read
from harken.score.distortion import si_sdr

Item = dict[str, Audio]  # stems that sum to the mixture


def of_pairs(folder: Path) -> Iterator[Item]:
    """Speech and noise of each pair."""
    for path in sorted((folder / "clean").iterdir()):
        clean, noisy = read(path), read(folder / "noisy" / path.name)
        yield {"speech": clean, "noise": Audio(noisy.samples - clean.samples, clean.rate)}


def of_tracks(folder: Path) -> Iterator[Item]:
    """The stems of each song."""
    for track in sorted(path for path in folder.iterdir() if path.is_dir()):
        yield {name: read(track / f"{name}.flac") for name in ("drums", "bass", "other")}


def score(items: Iterator[Item]) -> dict[str, dict[str, float]]:
    """Means over items, stem by stem."""
    rows: dict[str, list[tuple[float, float]]] = {}
    for stems in items:
        rate = next(iter(stems.values())).rate
        mixture = np.sum([stem.samples for stem in stems.values()], axis=0)
        made = harken.task("separate")(Audio(mixture, rate), stems=list(stems))
        for name, stem in stems.items():
            values = [
                np.mean([si_sdr(*pair) for pair in zip(stem.samples.T, x.T, strict=True)])
                for x in (mixture, made[name].samples)
            ]
            rows.setdefault(name, []).append((float(values[0]), float(values[1])))
    return {
        name: {
            "items": len(values),
            "si_sdr_mixture": round(float(np.mean([v[0] for v in values])), 2),
            "si_sdr": round(float(np.mean([v[1] for v in values])), 2),
        }
        for name, values in rows.items()
    }


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--tracks", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    report: dict[str, dict[str, dict[str, float]]] = {}
    if arguments.pairs:
        report["speech and noise"] = score(of_pairs(arguments.pairs))
    if arguments.tracks:
        report["songs"] = score(of_tracks(arguments.tracks))
    print(json.dumps(report, indent=2))
    if arguments.save:
        saved = json.loads(arguments.save.read_text()) if arguments.save.exists() else {}
        arguments.save.write_text(json.dumps({**saved, **report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
