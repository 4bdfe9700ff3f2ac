"""Does memory stay flat with length, and what does chunking change? About a minute; ``--minutes 60`` takes longer.

    python benchmarks/mp_senet_memory.py [--minutes 1 10 60] [--save FILE.json]

Each length runs in a process of its own, through the command line, on a shipped sample repeated to that length;
peak resident memory is the operating system's figure. Then the bundled model enhances one 30 s mixture whole and in
chunks, and the difference is given in decibels of the whole pass's output.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import harken
from harken.data.audio import read
from harken.score.distortion import si_sdr

RATE = 16000
SAMPLE = Path(harken.__file__).parent / "data/samples"

CHILD = """
import resource, sys
from harken.cli import main
code = main(["enhance", sys.argv[1], "-o", sys.argv[2], "--quiet"])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
raise SystemExit(code)
"""


def measure(minutes: float, folder: Path) -> dict[str, float]:
    """Peak memory and speed of one command on that many minutes."""
    source, target = folder / "long.wav", folder / "long.out.wav"
    noisy = read(next(SAMPLE.glob("*-noisy.flac"))).samples[:, 0]
    with soundfile.SoundFile(source, "w", RATE, 1, "PCM_16") as file:
        left = round(minutes * 60 * RATE)
        while left > 0:
            file.write(noisy[:left])
            left -= len(noisy)
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CHILD, source, target], capture_output=True, text=True, check=True)
    spent = time.perf_counter() - started
    peak = float(done.stdout.split()[-1]) / (1024 if sys.platform == "linux" else 1024**2)
    return {"peak_rss_mb": round(peak), "real_time_factor": round(spent / (minutes * 60), 3)}


def chunking(length: float = 30.0) -> dict[str, float]:
    """How far chunked output is from one pass over everything, in dB of the output."""
    noisy, clean = (read(next(SAMPLE.glob(f"*-{kind}.flac"))).samples[:, 0] for kind in ("noisy", "clean"))
    count = int(np.ceil(length * RATE / len(noisy)))
    noisy, clean = (np.tile(part, count)[: int(length * RATE)] for part in (noisy, clean))
    enhance = harken.task("enhance")
    whole = enhance(noisy, rate=RATE, chunk=None)
    report: dict[str, float] = {"si_sdr_whole": round(si_sdr(clean, whole), 3)}
    for chunk in (5.0, 10.0, 20.0):
        part = enhance(noisy, rate=RATE, chunk=chunk)
        difference = 10 * np.log10(np.sum((part - whole) ** 2) / np.sum(whole**2) + 1e-12)
        report[f"difference_db_chunk_{chunk:g}"] = round(float(difference), 1)
        report[f"si_sdr_chunk_{chunk:g}"] = round(si_sdr(clean, part), 3)
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 2])
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"memory": {}}
    for minutes in arguments.minutes:
        with tempfile.TemporaryDirectory() as folder:
            report["memory"][f"{minutes:g} min"] = measure(minutes, Path(folder))
        print(f"{minutes:g} min: {report['memory'][f'{minutes:g} min']}", flush=True)
    report["chunking"] = chunking()
    print(f"chunked against whole, 30 s: {report['chunking']}")
    report["this_process_peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
