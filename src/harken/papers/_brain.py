"""Where claims on brain signals find recordings: the folder ``brain`` of the one that ``HARKEN_DATA`` names."""

from __future__ import annotations

import os
from pathlib import Path

from harken.errors import InputError

VARIABLE = "HARKEN_DATA"


def brain_file(name: str) -> Path:
    """A recording by its file name, such as ``bonn_eeg.npz``.

    Raises:
        InputError: it is not there; the message says what to set and where the recordings come from.
    """
    path = Path(os.environ.get(VARIABLE, "nowhere")) / "brain" / name
    if not path.is_file():
        raise InputError(
            f"this claim needs '{name}': set {VARIABLE} to a folder with brain/{name} (docs/brain/data.md)"
        )
    return path
