"""Pictures: matplotlib without a screen, checked for early, saved whole or not at all."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from harken.errors import MissingExtraError, OutputError
from harken.whole_files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def require_matplotlib() -> None:
    """Find out early whether pictures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", extra="plot")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches, off screen, its parts laid out without overlap.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as PNG, or as what the file's extension says.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with whole_file(Path(path)) as partial:
            figure.savefig(partial, format=Path(path).suffix.lstrip(".") or "png")
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write the picture '{path}': {error}") from error
