"""What a run leaves behind to look at: losses and metrics as JSON lines, and as TensorBoard curves."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from harken.whole_files import write_text


class History:
    """Losses and metrics of a run: one JSON line each, and TensorBoard curves where it is installed."""

    def __init__(self, folder: Path, step: int, *, main: bool):
        self.main = main
        self.path = folder / "history.jsonl"
        self.curves: Any = None
        if not main:
            return
        if self.path.exists():  # drop what a killed run wrote after its last save
            kept = [line for line in self.path.read_text().splitlines() if _step_of(line) <= step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
        with contextlib.suppress(ImportError):
            from torch.utils.tensorboard import SummaryWriter

            self.curves = SummaryWriter(str(folder / "curves"), purge_step=step + 1)
        self.file = self.path.open("a")

    def losses(self, step: int, losses: dict[str, float]) -> None:
        """One step's losses (every tenth is kept)."""
        if self.main and step % 10 == 0:
            self._write(step, losses, {"step": step, **_finite(losses)}, "loss")

    def metrics(self, step: int, metrics: dict[str, float], seconds: float) -> None:
        """One validation."""
        if self.main:
            entry = {"step": step, "validation": _finite(metrics), "seconds": round(seconds, 2)}
            self._write(step, metrics, entry, "validation")

    def _write(self, step: int, values: dict[str, float], entry: dict[str, Any], group: str) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        if self.curves is not None:
            for name, value in values.items():
                self.curves.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        if self.main:
            self.file.close()
            if self.curves is not None:
                self.curves.close()


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
