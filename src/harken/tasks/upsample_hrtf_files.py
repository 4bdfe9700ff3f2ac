"""Upsample SOFA files: many listeners, each result whole or absent, and a report of what became of every one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float

from harken.data.audio import check_target
from harken.data.hrtf import HRIRs, equiangular_grid, read_hrirs, spread_directions, write_sofa
from harken.errors import HarkenError, InputError, OutputError
from harken.figures import require_matplotlib
from harken.tasks.batch import names_folder
from harken.tasks.file_reports import FileResult, FilesReport
from harken.tasks.sphere_pictures import draw_spheres
from harken.tasks.upsample_hrtf import Run, Upsampled, find_sets


@dataclass
class UpsampledFile(FileResult):
    """What became of one listener.

    Attributes:
        method, measured, directions: by what, from how many, to how many.
        delay, head_radius_cm, delay_error_us, offset_db: see :class:`harken.tasks.upsample_hrtf.Upsampled`.
        scores: with a truth.
    """

    method: str = ""
    measured: int = 0
    directions: int = 0
    delay: str = ""
    head_radius_cm: float | None = None
    delay_error_us: float | None = None
    offset_db: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def upsample_hrtf_files(
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    method: str = "hrtfformer",
    weights: str | os.PathLike[str] | None = None,
    grid: str = "model",
    points: int | None = None,
    training: str | os.PathLike[str] | None = None,
    truth: str | os.PathLike[str] | None = None,
    plot: bool = False,
    overwrite: bool = False,
    progress: Callable[[str, float, float], None] | None = None,
) -> FilesReport[UpsampledFile]:
    """Upsample SOFA files and folders of them; a broken one does not stop the rest.

    Args:
        sources: SOFA files, folders of them, or folders of CIPIC.
        out: a file for one listener, a folder for several; beside each as ``*.upsampled.sofa`` when None.
        method, weights, points, training: see :func:`harken.tasks.upsample_hrtf.upsample_hrtf`.
        grid: where to: see :func:`read_grid`.
        truth: the same listener in many directions; ``"same"`` for each input itself, of which ``points`` are measured.
        plot: draw a picture beside each output.
        overwrite: an output may replace its input.
        progress: called as ``progress(name, done, 1)``.

    Raises:
        InputError: nothing to do, or an argument out of range.
        OutputError: outputs that collide with each other or with inputs.
        CheckpointError: the weights cannot be used.
        MissingExtraError: sofar is not installed, or, for pictures, matplotlib.
    """
    found = find_sets(sources)
    jobs = _planned(found, out, overwrite, several=len(sources) > 1 or Path(sources[0]).is_dir())
    if truth is not None and truth != "same" and len(jobs) > 1:
        raise InputError("--truth is of one listener: give one input, or --truth same with --points")
    if truth == "same" and points is None:
        raise InputError(
            "--truth same compares with what was left out: say how many directions are measured, --points 19"
        )
    if plot:
        require_matplotlib()
    directions = read_grid(grid)
    run = Run.load(method, weights, training=training)
    report: FilesReport[UpsampledFile] = FilesReport("hrtf upsample", method, [])
    for source, target in jobs:
        result = UpsampledFile(str(source), method=method)
        began = time.perf_counter()
        try:
            if progress:
                progress(str(source), 0.0, 1.0)
            known = read_hrirs(source)
            compared = known if truth == "same" else None if truth is None else read_hrirs(truth)
            made = run(known, directions=directions, points=points, truth=compared)
            _make_folder(target.parent)
            write_sofa(target, made.hrirs, comment=_comment(made), history=f"harken hrtf upsample, {made.method}")
            _fill(result, made, known)
            if plot:
                picture = target.with_name(f"{target.name}.png")
                sets = {"measured": known if points is None else _chosen(known, points), "upsampled": made.hrirs}
                draw_spheres(sets if compared is None else {**sets, "truth": compared}, picture, title=target.name)
                result.picture = str(picture)
            result.output, result.elapsed = str(target), time.perf_counter() - began
        except (HarkenError, OSError, RuntimeError, ValueError) as error:
            result.error = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            if len(jobs) == 1:
                raise
        report.files.append(result)
        if progress:
            progress(str(source), 1.0, 1.0)
    return report


def read_grid(text: str) -> Float[np.ndarray, "directions 2"] | None:
    """Directions as a user names them.

    ``"model"`` for None; a SOFA file for its directions; one number for equal steps of so many degrees; a list such as
    ``"0:0,90:0,0:90"`` of azimuths and elevations.

    Raises:
        InputError: none of these.

    >>> read_grid("0:0,90:-15").tolist()
    [[0.0, 0.0], [90.0, -15.0]]
    """
    if text == "model":
        return None
    if Path(text).exists():
        return read_hrirs(text).directions
    try:
        if ":" in text:
            places = np.array([[float(angle) for angle in pair.split(":")] for pair in text.split(",")])
            if (
                places.ndim == 2
                and places.shape[1] == 2
                and np.isfinite(places).all()
                and np.abs(places[:, 1]).max() <= 90
            ):
                return np.stack((places[:, 0] % 360, places[:, 1]), -1)
            raise ValueError
        return equiangular_grid(float(text))
    except InputError:
        raise
    except ValueError:
        expected = "model, a SOFA file, a step in degrees, or azimuth:elevation,..."
        raise InputError(f"no grid '{text[:60]}': {expected}") from None


def _planned(
    found: Sequence[tuple[Path, Path]], out: str | os.PathLike[str] | None, overwrite: bool, *, several: bool
) -> list[tuple[Path, Path]]:
    """Where each result goes."""
    if out is not None and not os.fspath(out):
        raise OutputError("the output's name is empty: name a file or a folder with -o")
    jobs = []
    for source, kept in found:
        if out is None:
            target = source.with_name(f"{kept.stem}.upsampled.sofa")
        elif several or len(found) > 1 or names_folder(out):
            target = Path(out) / kept.with_suffix(".sofa")
        else:
            target = Path(out)
            if target.suffix != ".sofa":
                raise OutputError(f"the output '{out}' should end in .sofa")
        jobs.append((source, target))
    if out is None:
        jobs = [job for job in jobs if len(jobs) == 1 or not job[0].name.endswith(".upsampled.sofa")]
    if len({os.path.realpath(target) for _, target in jobs}) < len(jobs):
        raise OutputError("two listeners would get one name: give them names of their own, or do them one by one")
    inputs = {os.path.realpath(source) for source, _ in jobs}
    for _, target in jobs:
        if os.path.realpath(target) in inputs and not overwrite:
            raise OutputError(f"'{target}' is an input: choose another output, or pass --overwrite to replace it")
    if len(jobs) == 1 and jobs[0][1].parent.exists():
        check_target(jobs[0][1])
    return jobs


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{folder}': {error.strerror}") from error


def _chosen(known: HRIRs, points: int) -> HRIRs:
    return known.pick(spread_directions(known.directions, points))


def _fill(result: UpsampledFile, made: Upsampled, known: HRIRs) -> None:
    result.measured, result.directions = made.measured, len(made.hrirs)
    result.rate, result.channels = round(known.rate), 2
    result.delay, result.head_radius_cm, result.delay_error_us = made.delay, made.head_radius_cm, made.delay_error_us
    result.offset_db, result.scores, result.notes = made.offset_db, made.scores, made.notes


def _comment(made: Upsampled) -> str:
    return (
        f"Computed, not measured: magnitudes by {made.method} from {made.measured} measured directions, minimum phase, "
        f"times between the ears from {made.delay}"
    )
