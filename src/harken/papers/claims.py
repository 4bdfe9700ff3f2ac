"""Run the claims of a paper, and keep what came out as JSON that the tables are made from."""

from __future__ import annotations

import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from harken import __version__
from harken.errors import InputError, OutputError
from harken.papers import VERDICTS, get_paper
from harken.papers._record import Claim, Evidence, Paper
from harken.whole_files import write_text

CLAIMS_DIR = Path("docs/claims")
LARGEST_RECORD = 4 * 1024**2  # bytes

_TEXTS = ("slug", "claim", "statement", "source", "paper_value", "verdict", "summary")


def run_claims(
    slug: str,
    out_dir: str | Path = CLAIMS_DIR,
    seed: int = 0,
    quick: bool = False,
    only: str | None = None,
    progress: Callable[[str, float, str], None] | None = None,
) -> list[dict[str, Any]]:
    """Run a paper's claims, each with its baseline, and write one JSON record per claim.

    Args:
        slug: the paper.
        out_dir: where ``<slug>.<claim>.json`` goes. A quick run writes ``<slug>.<claim>.quick.json``, which no table
            reads, so that it never stands in for a measurement.
        seed: what every random choice of the experiment follows from.
        quick: a smoke test of seconds; its numbers mean nothing.
        only: the name of the one claim to run.
        progress: called as ``progress(claim, share done, note)``.

    Returns:
        The records, in the order of the paper's claims.

    Raises:
        InputError: no such paper or claim, the paper has no claims yet, or a claim measured something not finite.
        OutputError: the records cannot be written; found out before anything is run.
    """
    paper = get_paper(slug)
    claims = _chosen(paper, only)
    out_dir = Path(out_dir)
    _prepare(out_dir)
    return [_run(paper, claim, out_dir, seed, quick, progress) for claim in claims]


def read_claims(claims_dir: str | Path | None = None) -> list[dict[str, Any]]:
    """Every record in a folder, sorted by paper and claim; quick runs are left out.

    Args:
        claims_dir: the folder; by default the one that comes with harken.

    Raises:
        InputError: a file there is not such a record.
    """
    folder = shipped_claims() if claims_dir is None else Path(claims_dir)
    if folder is None or not folder.is_dir():
        return []
    paths = sorted(path for path in folder.glob("*.json") if not path.name.endswith(".quick.json"))
    return sorted((_read(path) for path in paths), key=lambda record: (record["slug"], record["claim"]))


def shipped_claims() -> Path | None:
    """The records that come with harken: inside the installed package, or in the checkout it runs from."""
    here = Path(__file__).resolve()
    for folder in (here.parent / "evidence", here.parents[3] / CLAIMS_DIR):
        if folder.is_dir():
            return folder
    return None


def _chosen(paper: Paper, only: str | None) -> list[Claim]:
    if not paper.claims:
        raise InputError(f"{paper.slug} has no claims to run yet (status: {paper.status})")
    claims = [claim for claim in paper.claims if only in (None, claim.name)]
    if not claims:
        names = [claim.name for claim in paper.claims]
        near = get_close_matches(str(only), names, n=1) or names
        raise InputError(f"{paper.slug} has no claim named '{only}': one of {', '.join(near)}")
    return claims


def _run(
    paper: Paper,
    claim: Claim,
    out_dir: Path,
    seed: int,
    quick: bool,
    progress: Callable[[str, float, str], None] | None,
) -> dict[str, Any]:
    def report(done: float, note: str = "") -> None:
        if progress is not None:
            progress(claim.name, done, note)

    started = time.perf_counter()
    evidence = claim.run(seed, quick, report)
    seconds = time.perf_counter() - started
    _check(paper, claim, evidence)
    record = {
        "slug": paper.slug,
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "paper_value": claim.paper_value,
        **asdict(evidence),
        "quick": quick,
        "seed": seed,
        "seconds": round(seconds, 1),
        "date": datetime.now(UTC).date().isoformat(),
        **_circumstances(),
    }
    suffix = ".quick.json" if quick else ".json"
    _write(out_dir / f"{paper.slug}.{claim.name}{suffix}", record)
    return record


def _check(paper: Paper, claim: Claim, evidence: Evidence) -> None:
    who = f"the claim {paper.slug}.{claim.name}"
    if evidence.verdict not in VERDICTS:
        raise InputError(f"{who} came to the verdict '{evidence.verdict}': one of {', '.join(VERDICTS)}")
    for name, value in [*evidence.measured.items(), *evidence.baseline.items()]:
        if not math.isfinite(value):
            raise InputError(f"{who} measured {name} = {value}: nothing to judge by, and nothing written")


def _circumstances() -> dict[str, Any]:
    import torch

    return {
        "versions": {"harken": __version__, "python": platform.python_version(), "torch": str(torch.__version__)},
        "machine": {
            "architecture": platform.machine(),
            "system": platform.system(),
            "cpu_count": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def _prepare(out_dir: Path) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out_dir):
            pass
    except OSError as problem:
        raise OutputError(f"cannot write records to {out_dir}: {problem.strerror}; choose another folder") from problem


def _write(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_RECORD:
            raise InputError(f"{path} is too large for the record of a claim")
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        if isinstance(problem, InputError):
            raise
        raise InputError(f"{path} is not JSON: {type(problem).__name__}: {problem}") from problem
    if not isinstance(record, dict) or not all(isinstance(record.get(key), str) for key in _TEXTS):
        raise InputError(f"{path} is not the record of a claim: expected an object with {', '.join(_TEXTS)}")
    if record["verdict"] not in VERDICTS:
        raise InputError(f"{path} has the verdict '{record['verdict']}': one of {', '.join(VERDICTS)}")
    return record
