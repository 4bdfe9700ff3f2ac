"""What do the verbs that restore recordings cost on a minute and on ten: time, peak memory, speed against playing?

    python benchmarks/restoration.py [--minutes 1 10] [--only enhance extend] [--authors FOLDER] [--save FILE.json]

Every row is a command line in a process of its own, on real voices repeated to the length, with the weights that ship
or with random ones of the paper's size; the time counts loading. ``--authors`` names a folder with clones of the
authors' repositories (AP-BWE), whose model then does the same to the same file, whole, as its own script does. Peak
memory is the operating system's figure for the whole process, time the processor's, so that threads are added up. What
needs a closer look has a script of its own: mp_senet_speed.py, extend_speed.py, extract_speed.py, separate_speed.py,
hrtf_speed.py, separation_score.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr

import harken
from harken.data.audio import read

SAMPLES = Path(__file__).parent.parent / "samples"

CHILD = """
import resource, sys
from harken.cli import main
code = main(sys.argv[1:])
use = resource.getrusage(resource.RUSAGE_SELF)
print(use.ru_maxrss, use.ru_utime + use.ru_stime)
raise SystemExit(code)
"""

# the authors' generator on a whole file, as their own script feeds it; spectra are the same as harken's
AP_BWE = """
import json, resource, sys
from pathlib import Path
from types import SimpleNamespace
import soundfile, soxr, torch
from harken.models.enhance.ap_bwe import APBWE
clone, source, target = map(Path, sys.argv[1:4])
sys.path.insert(0, str(clone / "AP-BWE"))
from models.model import APNet_BWE_Model
settings = json.loads((clone / "AP-BWE/configs/config_8kto16k.json").read_text())
generator, spectra = APNet_BWE_Model(SimpleNamespace(**settings)).eval(), APBWE()
samples, rate = soundfile.read(source, dtype="float32")
waveform = torch.from_numpy(soxr.resample(samples, rate, 16000))[None]
with torch.inference_mode():
    made = generator(*spectra.analyse(waveform))
    wide = spectra.synthesise(made[0], made[1], waveform.shape[-1])
soundfile.write(target, wide[0].numpy(), 16000)
use = resource.getrusage(resource.RUSAGE_SELF)
print(use.ru_maxrss, use.ru_utime + use.ru_stime)
"""


@dataclass(frozen=True)
class Row:
    """A command: its name, the arguments between the verb and the output, and what it is given."""

    verb: str
    name: str
    arguments: tuple[str, ...]
    rate: int = 16000
    channels: int = 1
    prepare: Callable[[Path], tuple[str, ...]] | None = None  # makes weights in a folder; more arguments
    authors: str | None = None  # a script that does the same with a clone of theirs


def random_weights(slug: str, **options: Any) -> Callable[[Path], tuple[str, ...]]:
    """Weights of the paper's size, saved where a command can read them."""

    def prepare(folder: Path) -> tuple[str, ...]:
        from harken.models import model_class

        build: Any = model_class(slug)
        config = build.Config.paper(**options) if hasattr(build.Config, "paper") else build.Config(**options)
        build(config).save_pretrained(folder / slug)
        return ("--weights", str(folder / slug))

    return prepare


ROWS = (
    Row("enhance", "mp-senet, ships", ()),
    Row("enhance", "mambattention, ships", ("--model", "mambattention")),
    Row("extend", "ap-bwe to 16 kHz, ships", ("--to", "16000"), rate=8000),
    Row("extend", "ap-bwe to 48 kHz, ships", ("--to", "48000")),
    Row("extend", "ap-bwe to 16 kHz, paper's size", ("--to", "16000"), 8000, 1, random_weights("ap-bwe"), AP_BWE),
    Row("extract", "look-once-to-hear, ships", ("--enroll", str(SAMPLES / "voice-by-fan-noisy.flac")), channels=2),
    Row("separate", "speech and noise, ships", ()),
)


def recording(path: Path, minutes: float, rate: int, channels: int) -> None:
    """Real voices in noise, repeated to the length."""
    noisy = np.concatenate([read(file).samples[:, 0] for file in sorted(SAMPLES.glob("*-noisy.flac"))])
    noisy = soxr.resample(noisy, 16000, rate)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as file:
        left = round(minutes * 60 * rate)
        while left > 0:
            file.write(np.repeat(noisy[:left, None], channels, 1))
            left -= len(noisy)


def measure(row: Row, minutes: float, folder: Path, clones: Path | None) -> dict[str, Any]:
    """One command on so many minutes, and the authors' script on the same file."""
    source, target = folder / "in.wav", folder / "out.wav"
    recording(source, minutes, row.rate, row.channels)
    more = row.prepare(folder) if row.prepare else ()
    out = folder / "stems" if row.verb == "separate" else target
    command = [row.verb, str(source), *row.arguments, *more, "-o", str(out), "--quiet"]
    report = run([CHILD, *command], minutes)
    if row.authors and clones:
        report["authors"] = run([row.authors, str(clones), str(source), str(target)], minutes)
    return report


def run(command: list[str], minutes: float) -> dict[str, Any]:
    """What a child says of itself, in units."""
    done = subprocess.run([sys.executable, "-c", *command], capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    peak, seconds = map(float, done.stdout.split()[-2:])
    return {
        "peak_mb": round(peak / (1024 if sys.platform == "linux" else 1024**2)),
        "cpu_seconds_per_second": round(seconds / (60 * minutes), 4),
        "times_real_time": round(60 * minutes / seconds, 1),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--only", nargs="+", choices=sorted({row.verb for row in ROWS}))
    parser.add_argument("--authors", type=Path)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"harken": harken.__version__, "rows": []}
    for row in ROWS:
        if arguments.only and row.verb not in arguments.only:
            continue
        for minutes in arguments.minutes:
            with tempfile.TemporaryDirectory() as folder:
                figures = measure(row, minutes, Path(folder), arguments.authors)
            report["rows"].append({"verb": row.verb, "name": row.name, "minutes": minutes, **figures})
            print(f"{row.verb}, {row.name}, {minutes:g} min: {figures}", flush=True)
    if arguments.save:
        arguments.save.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
