"""Many files: which files a user means by files, folders and globs, and where the result of each goes."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harken.data.audio import FORMATS
from harken.errors import InputError, OutputError

PIPE = Path("-")


@dataclass(frozen=True)
class Job:
    """One input, and the path that it keeps below an output folder."""

    source: Path
    relative: Path
    found: bool = False  # in a folder or by a pattern, not named by the user


def find_inputs(sources: Sequence[str | os.PathLike[str]]) -> list[Job]:
    """Files as they are named; folders searched recursively for audio by extension; patterns (``*``, ``?``, ``**``).

    Hidden files are passed over, a file named twice is taken once. A named file need not exist: reading it tells.

    Raises:
        InputError: nothing named, a folder or pattern without audio, or a pattern that is none.
    """
    jobs: list[Job] = []
    for source in sources:
        if not os.fspath(source):  # an unset variable of a script: Path("") would be the working folder
            raise InputError("an input's name is empty: name a file, a folder or a pattern")
        path = Path(source)
        if path.is_dir():
            found = [Job(file, file.relative_to(path), found=True) for file in _walk(path)]
            if not found:
                raise InputError(f"no audio in the folder '{path}': looked for {', '.join(sorted(FORMATS))}")
            jobs += found
        elif glob.has_magic(str(source)) and not path.exists():
            root = Path(*_before_magic(path.parts))
            files = _matches(root, path.relative_to(root), str(source))
            if not files:
                raise InputError(f"no audio file matches '{source}'")
            jobs += [Job(file, file.relative_to(root), found=True) for file in files]
        else:
            jobs.append(Job(path, Path(path.name)))
    if not jobs:
        raise InputError("nothing to do: name a file, a folder or a pattern")
    return list({os.path.realpath(job.source): job for job in reversed(jobs)}.values())[::-1]


def plan_outputs(
    jobs: Sequence[Job],
    out: str | os.PathLike[str] | None,
    *,
    several: bool,
    suffix: str,
    overwrite: bool = False,
) -> list[tuple[Job, Path]]:
    """Where each result goes.

    Without ``out``: beside the input, ``talk.wav`` to ``talk.<suffix>.wav`` (what is so named already was made here and
    is passed over when found in a folder), standard input to standard output. With ``out``: the file of that name for
    one input; a folder if it is one, ends in a slash, has no audio extension, or ``several`` inputs were asked for.

    Raises:
        OutputError: two results would have one name, or a result that of an input and not ``overwrite``.
        InputError: nothing is left to do.
    """
    if out is None:
        jobs = [job for job in jobs if not (job.found and job.source.stem.endswith(f".{suffix}"))]
        plan = [(job, PIPE if job.source == PIPE else _beside(job.source, suffix)) for job in jobs]
        made = {os.path.realpath(target) for _, target in plan if target != PIPE}
        plan = [(job, target) for job, target in plan if os.path.realpath(job.source) not in made]
    elif not os.fspath(out):
        raise OutputError("the output's name is empty: name a file or a folder with -o")
    elif str(out) == "-":
        if several or len(jobs) > 1:
            raise OutputError("standard output takes one result: name a folder with -o")
        plan = [(jobs[0], PIPE)]
    elif several or len(jobs) > 1 or names_folder(out):
        folder = Path(out)
        if folder.exists() and not folder.is_dir():
            raise OutputError(
                f"cannot put results into '{out}': it is a file; name a folder with -o, or, for one input, x.wav"
            )
        jobs = [job for job in jobs if not _is_earlier_result(job, folder)]
        plan = [(job, folder / (job.relative if job.source != PIPE else f"stdin.{suffix}.wav")) for job in jobs]
        plan = [(job, _writable_name(target)) for job, target in plan]
    else:
        plan = [(jobs[0], Path(out))]
    if not plan:
        raise InputError(f"nothing left to do: every file found is a result already (*.{suffix}.*)")
    _check_distinct(plan, overwrite)
    return plan


def _check_distinct(plan: Sequence[tuple[Job, Path]], overwrite: bool) -> None:
    inputs = {os.path.realpath(job.source): job.source for job, _ in plan if job.source != PIPE}
    taken: dict[str, Path] = {}
    for job, target in plan:
        if target == PIPE:
            continue
        real = os.path.realpath(target)
        if real in taken:
            raise OutputError(f"'{taken[real]}' and '{job.source}' would both become '{target}': do them one by one")
        taken[real] = job.source
        if not overwrite and (real in inputs or _is_same(job.source, target)):
            raise OutputError(f"'{target}' is an input: choose another output, or pass --overwrite to replace it")


def _beside(source: Path, suffix: str) -> Path:
    return _writable_name(source.with_name(f"{source.stem}.{suffix}{source.suffix}"))


def _writable_name(target: Path) -> Path:
    """The name itself, or with .wav in place of an extension that libsndfile reads but does not write."""
    return target if target.suffix.lower() in FORMATS else target.with_suffix(".wav")


def names_folder(out: str | os.PathLike[str]) -> bool:
    """Whether ``-o`` means a folder though there is one input: it is one, ends in a slash, or has no extension."""
    return Path(out).is_dir() or str(out).endswith(("/", os.sep)) or not Path(out).suffix


def _walk(folder: Path) -> list[Path]:
    files = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(root, name) for name in sorted(names) if not name.startswith(".")]
    return [file for file in files if file.suffix.lower() in FORMATS]


def _matches(root: Path, pattern: Path, source: str) -> list[Path]:
    """Audio files below ``root``; hidden ones only for a pattern that says so."""
    if ".." in pattern.parts:  # results keep the tree below the root: nothing may lead out of it
        raise InputError(f"'{source}' goes up (..) after its first wildcard: name the folder itself")
    if pattern.name == "**":  # only folders, to Python before 3.13
        pattern /= "*"
    try:
        names = sorted(root.glob(str(pattern)))
    except ValueError as error:
        raise InputError(f"'{source}' is not a pattern ({error}): write it like 'talks/**/*.wav'") from error
    if not _is_hidden(pattern):
        names = [name for name in names if not _is_hidden(name.relative_to(root))]
    return [name for name in names if name.is_file() and name.suffix.lower() in FORMATS]


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _before_magic(parts: Sequence[str]) -> list[str]:
    fixed: list[str] = []
    for part in parts[:-1]:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _is_earlier_result(job: Job, folder: Path) -> bool:
    """The output folder lies inside the input folder, and this file in it."""
    root = Path(os.path.realpath(job.source.parents[len(job.relative.parts) - 1]))
    results = Path(os.path.realpath(folder))
    inside = results != root and results.is_relative_to(root)
    return job.found and inside and Path(os.path.realpath(job.source)).is_relative_to(results)


def _is_same(source: Path, target: Path) -> bool:
    return source != PIPE and source.exists() and target.exists() and source.samefile(target)
