"""Parity: our model on somebody else's tensors, compared one by one with what theirs gave.

A case is a directory with ``case.json`` (``slug``, ``tolerance``, and what the replay needs, such as ``config``),
``io.safetensors`` (inputs and the outputs to match, by name) and, where the system has parameters,
``weights.safetensors``. The paper's ``replay`` turns it into outputs under their saved names.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harken.errors import HarkenError, InputError
from harken.papers import get_paper, list_papers
from harken.papers._record import Paper

LARGEST_TENSORS = 2 * 1024**3  # bytes in one .safetensors file
LARGEST_DESCRIPTION = 4 * 1024**2  # bytes in case.json


@dataclass(frozen=True)
class Case:
    """A parity case as it lies on disk; tensors are read when first asked for.

    ``description`` is the whole of ``case.json``; ``tolerance`` bounds the largest absolute error of every tensor.
    """

    directory: Path
    slug: str
    tolerance: float
    description: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        """The authors' configuration; empty where the case gives none."""
        return self.description.get("config", {})

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Inputs and expected outputs by name."""
        return _read_tensors(self.directory / "io.safetensors")

    @cached_property
    def weights(self) -> dict[str, Tensor]:
        """The authors' parameters under their own names.

        Raises:
            InputError: the case has no ``weights.safetensors``.
        """
        return _read_tensors(self.directory / "weights.safetensors")

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The parameters below a prefix, such as ``"generator."``, by what is behind it."""
        return {name.removeprefix(prefix): w for name, w in self.weights.items() if name.startswith(prefix)}


@dataclass(frozen=True)
class TensorError:
    """How far one output is from the saved one.

    ``error`` is the largest absolute difference (modulo 2 pi for angles), ``relative`` that over the largest saved
    magnitude; both are infinite when there is nothing to compare, and ``problem`` then says why. ``is_relative`` says
    which of them is judged.
    """

    name: str
    error: float
    relative: float
    passed: bool
    problem: str = ""
    is_relative: bool = False

    @property
    def judged(self) -> float:
        """The error that the tolerance bounds."""
        return self.relative if self.is_relative else self.error


@dataclass(frozen=True)
class ParityReport:
    """The outcome of one case: every compared tensor, and the saved ones that the replay did not return (inputs)."""

    directory: Path
    slug: str
    tolerance: float
    tensors: tuple[TensorError, ...]
    not_compared: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Something was compared, and all of it is within the tolerance."""
        return bool(self.tensors) and all(tensor.passed for tensor in self.tensors)


def load_case(case_dir: str | Path) -> Case:
    """Read and check a case's description; replays start with this.

    Raises:
        InputError: a file is missing, too large, or not what a case holds.
    """
    directory = Path(case_dir)
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory: a parity case holds case.json and io.safetensors")
    description = _read_description(_checked(directory / "case.json", LARGEST_DESCRIPTION))
    _checked(directory / "io.safetensors", LARGEST_TENSORS)
    return Case(directory, description["slug"], float(description["tolerance"]), description)


def find_cases(directory: str | Path) -> list[Path]:
    """The directory itself when it is a case, else the cases directly inside it (itself again when there are none)."""
    directory = Path(directory)
    if (directory / "case.json").exists():
        return [directory]
    return sorted(path.parent for path in directory.glob("*/case.json")) or [directory]


def paper_of_case(slug: str) -> Paper:
    """The paper that answers a case of this slug: its own, or the one that names it among its ``cases``.

    Raises:
        InputError: none does.
    """
    for paper in list_papers():
        if slug in paper.cases:
            return paper
    return get_paper(slug)


def check_parity(case_dir: str | Path) -> ParityReport:
    """Run a case through its paper's replay and compare every tensor that comes back.

    A tensor passes when ``max |ours - saved| <= tolerance``, or that over the largest saved magnitude where the paper's
    record calls it ``relative``. NaN, another shape, a name that the case has not saved, and a replay that returns
    nothing are failures.

    Raises:
        InputError: the case is damaged, its paper has no replay yet, or the replay cannot run on it.
    """
    case = load_case(case_dir)
    paper = paper_of_case(case.slug)
    if paper.replay is None:
        raise InputError(f"{paper.slug} has no replay yet (status: {paper.status}): nothing to compare {case_dir} with")
    saved = case.io
    try:
        ours = paper.replay(case.directory)
    except HarkenError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as problem:
        what = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}"
        raise InputError(f"the replay of {paper.slug} cannot run on {case_dir}: {what}") from problem
    if not isinstance(ours, dict):
        raise InputError(f"the replay of {paper.slug} returned a {type(ours).__name__}, not tensors by name")
    tensors = tuple(
        _compare(
            name,
            tensor,
            saved.get(name),
            case.tolerance,
            is_angle=name in paper.angles,
            is_relative=name in paper.relative,
        )
        for name, tensor in ours.items()
    )
    return ParityReport(case.directory, case.slug, case.tolerance, tensors, tuple(sorted(saved.keys() - ours.keys())))


def _compare(
    name: str, ours: object, saved: Tensor | None, tolerance: float, *, is_angle: bool, is_relative: bool
) -> TensorError:
    if saved is None:
        return _failure(name, "the case has saved no tensor of this name")
    if not isinstance(ours, Tensor):
        return _failure(name, f"the replay returned a {type(ours).__name__}, not a tensor")
    if ours.shape != saved.shape:
        return _failure(name, f"shape {tuple(ours.shape)}, saved {tuple(saved.shape)}")
    ours, saved = _widen(ours), _widen(saved)
    for whose, tensor in (("ours", ours), ("the saved one", saved)):
        if not tensor.isfinite().all():
            return _failure(
                name, f"NaN or infinity in {int((~tensor.isfinite()).sum())} of {tensor.numel()} of {whose}"
            )
    if saved.numel() == 0:
        return TensorError(name, 0.0, 0.0, True)
    difference = (ours - saved).abs()
    if is_angle:
        difference = torch.minimum(difference % (2 * math.pi), -difference % (2 * math.pi))
    error, scale = float(difference.max()), float(saved.abs().max())
    relative = error / scale if scale else error
    judged = relative if is_relative else error
    return TensorError(name, error, relative, judged <= tolerance, is_relative=is_relative)


def _failure(name: str, problem: str) -> TensorError:
    return TensorError(name, math.inf, math.inf, False, problem)


def _widen(tensor: Tensor) -> Tensor:
    """In double precision on the CPU, so that the comparison adds no error of its own."""
    return tensor.detach().cpu().to(torch.complex128 if tensor.is_complex() else torch.float64)


def _checked(path: Path, largest: int) -> Path:
    if not path.is_file():
        raise InputError(f"{path.parent} has no {path.name}: it is not a whole parity case")
    size = path.stat().st_size
    if size > largest:
        raise InputError(f"{path} has {size:,} bytes: a parity case holds at most {largest:,}")
    return path


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise InputError(f"cannot read {path}: {problem.strerror}") from problem
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path} is not JSON: {type(problem).__name__}: {problem}") from problem
    if not isinstance(description, dict):
        raise InputError(f"{path} holds a {type(description).__name__}: expected an object with 'slug' and 'tolerance'")
    slug, tolerance, config = description.get("slug"), description.get("tolerance"), description.get("config", {})
    if not isinstance(slug, str):
        raise InputError(f"{path} names no 'slug': expected the paper's, as `harken papers` lists them")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or not 0 < tolerance < math.inf:
        raise InputError(f"{path} has tolerance {tolerance!r}: expected a positive number, the largest absolute error")
    if not isinstance(config, dict):
        raise InputError(f"{path} has a 'config' that is a {type(config).__name__}: expected an object")
    return description


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _checked(path, LARGEST_TENSORS)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as problem:
        raise InputError(f"{path} is not a readable .safetensors file: {problem}") from problem
