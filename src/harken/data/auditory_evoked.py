"""EEG of the Auditory Evoked Potential Biometric dataset (PhysioNet, doi 10.13026/ps31-fc50): CSV, four electrodes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from harken.data.brain import Recording
from harken.errors import InputError

SFREQ = 200.0
ELECTRODES = ("P4", "Cz", "F8", "T7")
_LARGEST = 64 << 20  # bytes; two minutes have two million


def read_auditory_evoked(path: str | os.PathLike[str]) -> Recording:
    """A two-minute segment: an index and four columns of microvolts, 200 rows a second, with or without a title row.

    Raises:
        InputError: there is no such file, or it has another layout.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no recording at '{path}'")
    if path.stat().st_size > _LARGEST:
        raise InputError(f"'{path}' is too large for two minutes of EEG")
    try:
        with path.open(encoding="utf-8") as file:
            titled = not file.readline().split(",")[0].strip().lstrip("-").replace(".", "", 1).isdigit()
        table = np.loadtxt(path, delimiter=",", skiprows=int(titled), ndmin=2, dtype=np.float64)
    except (OSError, ValueError) as error:
        raise InputError(f"'{path}' is not a table of numbers: {str(error)[:100]}") from None
    if table.shape[1] != 1 + len(ELECTRODES) or len(table) < 2 or not (np.diff(table[:, 0]) > 0).all():
        expected = "expected a rising index and the columns of P4, Cz, F8 and T7"
        raise InputError(f"'{path}' has {table.shape[1]} columns: {expected}")
    return Recording((1e-6 * table[:, 1:].T).astype(np.float32), SFREQ, ELECTRODES, name=path.name)
