"""``harken brain``: decode and analyse brain signals, one file a command."""

from __future__ import annotations

from importlib import import_module

import typer

# one file each; none imports torch, scikit-learn or MNE before its command runs
_COMMANDS: tuple[str, ...] = (
    "attend",
    "chirp",
    "decode",
    "denoise",
    "efr",
    "evaluate",
    "geometric",
    "sample",
    "seizure",
    "speech",
    "ssvep",
    "stream",
    "tokens",
)


def register(app: typer.Typer) -> None:
    """Add the commands of this folder."""
    brain = typer.Typer(no_args_is_help=True, help="Read brain signals: decode, detect, locate, analyse.")
    brain.callback()(_group)
    for name in _COMMANDS:
        import_module(f"harken.cli.brain.{name}").register(brain)
    app.add_typer(brain, name="brain")


def _group() -> None:
    """Read brain signals: decode trials, detect events, locate chirps, follow envelopes.

    Files are what MNE reads (EDF, BDF, GDF, FIF, BrainVision, EEGLAB), .npz and CSV.
    """
