"""How near to the wideband original do the bundled AP-BWE weights come, beside a sinc filter and copies of the band?

    python benchmarks/extend_quality.py WIDE ... --to 16000 --from 8000 [--weights W] [--name N] [--save FILE.json]

WIDE are files or folders of speech that fills the band up to half of --to. Every recording is narrowed to each of the
--from rates (soxr, the filter that most files went through), and given to every system. Means over recordings of the
log-spectral distance, over the whole band and the missing one, of the phase's distance, and of PESQ at 16 kHz.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import harken
from harken.data.audio import read
from harken.data.narrowing import through_soxr
from harken.score.extension import score_extension
from harken.score.perceptual import pesq_wb

SYSTEMS = {"sinc filter": "sinc", "copies of the band": "copy-up", "harken ap-bwe": "ap-bwe"}
METRICS = ("lsd", "lsd_high", "apd_ip")


def score(wide: list[np.ndarray], to: int, source_rate: int, weights: str | None) -> dict[str, dict[str, float]]:
    """Means of every system's scores."""
    extend = harken.task("extend")
    narrow = [through_soxr(samples, to, source_rate) for samples in wide]
    results = {}
    for name, model in SYSTEMS.items():
        rows = []
        for given, reference in zip(narrow, wide, strict=True):
            made = extend(given, rate=to, to=to, model=model, weights=weights if model == "ap-bwe" else None)
            row = score_extension(reference, made, to, above=source_rate / 2)
            if to == 16000:
                row["pesq_wb"] = pesq_wb(reference, made, to)
            rows.append(row)
        names = (*METRICS, "pesq_wb") if to == 16000 else METRICS
        results[name] = {metric: round(float(np.mean([row[metric] for row in rows])), 4) for metric in names}
        print(f"  {source_rate} to {to} Hz, {name:20s} {results[name]}", flush=True)
    return results


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wide", nargs="+", type=Path)
    parser.add_argument("--to", type=int, default=16000)
    parser.add_argument("--from", dest="source_rates", type=int, nargs="+", default=[8000])
    parser.add_argument("--weights")
    parser.add_argument("--name", default="recordings")
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    paths = [file for path in arguments.wide for file in (sorted(path.rglob("*.flac")) if path.is_dir() else [path])]
    wide = [read(path).mono().resample(arguments.to).samples[:, 0] for path in paths]
    print(f"{arguments.name}: {len(wide)} recordings, {sum(map(len, wide)) / arguments.to / 60:.1f} min")
    report: dict[str, Any] = {"recordings": len(wide)}
    for source_rate in arguments.source_rates:
        report[f"{source_rate} to {arguments.to}"] = score(wide, arguments.to, source_rate, arguments.weights)
    if arguments.save:
        saved = json.loads(arguments.save.read_text()) if arguments.save.exists() else {}
        arguments.save.write_text(json.dumps({**saved, arguments.name: report}, indent=2) + "\n")


if __name__ == "__main__":
    main()
