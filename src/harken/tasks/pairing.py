"""Two folders, file by file: which belong together, and one function run on every pair in worker processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from harken.data.audio import FORMATS
from harken.errors import InputError

# a worker spends some seconds on imports: fewer pairs than this per worker are sooner done without it
_PAIRS_PER_WORKER = 8


class Pair(NamedTuple):
    """Two files that belong together, under the reference's path within its folder."""

    name: str
    reference: Path
    estimate: Path


def pair_folders(reference: Path, estimate: Path) -> tuple[list[Pair], list[str], list[tuple[str, str]]]:
    """Pair the audio files of two folders by path within the folder; failing that, by that path without suffix.

    Returns:
        the pairs by name, the paths without a partner, and ``(name, message)`` where several would fit.

    Raises:
        InputError: a folder without audio files, or no pair at all.
    """
    ours, theirs = _audio_files(reference), _audio_files(estimate)
    by_stem: dict[Path, list[Path]] = {}
    for path in theirs:
        by_stem.setdefault(path.with_suffix(""), []).append(path)
    pairs, unmatched, ambiguous = [], [], []
    used: set[Path] = set()
    for path in ours:
        candidates = [path] if path in theirs else by_stem.get(path.with_suffix(""), [])
        used.update(candidates)
        if len(candidates) == 1:
            pairs.append(Pair(path.as_posix(), reference / path, estimate / candidates[0]))
        elif candidates:
            names = ", ".join(candidate.name for candidate in candidates)
            ambiguous.append((path.as_posix(), f"several estimates fit '{path.as_posix()}' ({names}): keep one"))
        else:
            unmatched.append(str(reference / path))
    unmatched += [str(estimate / path) for path in theirs if path not in used]
    if not pairs and not ambiguous:
        raise InputError(f"no file of '{reference}' has its name in '{estimate}': pairs must share their name or stem")
    return pairs, unmatched, ambiguous


def _audio_files(folder: Path) -> dict[Path, None]:
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in FORMATS)
    if not found:
        raise InputError(f"no audio file in '{folder}': expected files ending in {', '.join(sorted(FORMATS))}")
    return dict.fromkeys(found)


def run_pairs(
    function: Callable[..., Any],
    pairs: list[Pair],
    arguments: tuple[Any, ...],
    workers: int | None,
    progress: Callable[[str, float, float], None] | None = None,
) -> list[Any]:
    """``function(pair, *arguments)`` on every pair, in order, over spawned processes if ``workers`` is not 1.

    ``function`` lives at the top of its module and returns what is wrong with a pair as a string. A process that dies
    takes only its own pair with it.

    Raises:
        InputError: ``workers`` is below 1.
    """
    if workers is not None and workers < 1:
        raise InputError(f"expected at least one worker, got {workers}")
    workers = workers or min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        max(1, len(pairs) // _PAIRS_PER_WORKER),
    )
    results: dict[int, Any] = {}

    def finish(index: int, result: Any) -> None:
        results[index] = result
        if progress:
            progress(pairs[index].name, len(results), len(pairs))

    if workers == 1:
        for index, pair in enumerate(pairs):
            finish(index, function(pair, *arguments))
    else:
        lost = _run_pool(function, pairs, list(range(len(pairs))), arguments, workers, finish)
        # who killed the pool is not known: those left try again, each in a process of its own
        for index in lost:
            if _run_pool(function, pairs, [index], arguments, 1, finish):
                finish(index, "the process that scored it died: its metrics may need shorter files")
    return [results[index] for index in range(len(pairs))]


def _run_pool(
    function: Callable[..., Any],
    pairs: list[Pair],
    indices: list[int],
    arguments: tuple[Any, ...],
    workers: int,
    finish: Callable[[int, Any], None],
) -> list[int]:
    """Run some of the pairs; return those that a dying process took along."""
    lost = set(indices)
    with ProcessPoolExecutor(min(workers, len(indices)), mp_context=get_context("spawn")) as pool:
        try:
            _check_alive(pool)
            futures = {pool.submit(function, pairs[index], *arguments): index for index in indices}
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    finish(futures[future], future.result())
                    lost.remove(futures[future])
        except BrokenProcessPool:
            pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sorted(lost)


def _check_alive(pool: ProcessPoolExecutor) -> None:
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool:
        raise InputError(
            'worker processes cannot start: call it under `if __name__ == "__main__":`, or pass workers=1'
        ) from None
