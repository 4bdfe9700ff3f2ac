"""Two folders, file by file: which belong together, and one function run on every pair in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harken.data.audio import FORMATS
from harken.errors import InputError
from harken.tasks.recordings import Progress
from harken.tasks.worker_pool import WorkerDied, processors, work_in_processes

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
    workers = workers or min(processors(), max(1, len(pairs) // _PAIRS_PER_WORKER))
    one_pair = _OnePair(function, arguments)
    done: Iterable[tuple[int, Any]] = ((index, one_pair(pair)) for index, pair in enumerate(pairs))
    if workers > 1:
        done = work_in_processes(pairs, _InProcess(one_pair), workers=workers)
    results: dict[int, Any] = {}
    for index, result in done:
        results[index] = result
        if progress:
            progress(pairs[index].name, len(results), len(pairs))
    died = [result for result in results.values() if isinstance(result, WorkerDied)]
    if died and len(died) == len(pairs):
        raise InputError(
            f'worker processes cannot work ({died[0].reason}): call it under `if __name__ == "__main__":`, or pass '
            "workers=1"
        )
    return [
        f"{result.reason}; its metrics may need shorter files" if isinstance(result, WorkerDied) else result
        for _, result in sorted(results.items())
    ]


@dataclass(frozen=True)
class _OnePair:
    """A function of a pair, with its other arguments."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]

    def __call__(self, pair: Pair) -> Any:
        return self.function(pair, *self.arguments)


@dataclass(frozen=True)
class _InProcess:
    """What a process is started with: nothing needs to be loaded."""

    one_pair: _OnePair

    def __call__(self, progress: Progress | None) -> _OnePair:
        return self.one_pair
