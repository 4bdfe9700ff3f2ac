"""``harken brain evaluate``: decoders side by side on recordings they have not seen."""

from __future__ import annotations

from typing import Annotated

import typer

from harken.cli.brain import options


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("evaluate", no_args_is_help=True)(evaluate)


def evaluate(
    data: options.Data,
    decoders: Annotated[
        str,
        typer.Option(
            help="Which to compare, separated by commas: csp-lda, riemann, band-power, means-lda, or an "
            "estimator of harken by its class name.",
            rich_help_panel=options.JUDGING,
        ),
    ] = "csp-lda,riemann,band-power,means-lda",
    split: options.SplitOption = "within-session",
    folds: options.Folds = 5,
    seeds: options.Seeds = 1,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    channels: options.Channels = None,
    low: options.Low = None,
    high: options.High = None,
    notch: options.Notch = None,
    unit: options.Unit = "uV",
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare decoders on the same trials without leakage: what is judged shares no recording with what is learned.

    within-session cuts every session into stretches of neighbouring trials; cross-session leaves one session out;
    cross-subject one subject. Mean accuracy, its spread over folds and seeds, balanced accuracy and Cohen's kappa stand
    beside chance.

    Example: harken brain evaluate FingerMovements.npz --decoders DBConformerClassifier,csp-lda --split cross-session
    """
    from harken.figures import require_matplotlib
    from harken.tasks.brain_evaluation import draw_evaluation, named_decoders
    from harken.tasks.brain_evaluation import evaluate as judge

    if plot is not None:
        require_matplotlib()
    trials = options.load_trials(
        data, sfreq=sfreq, tmin=tmin, tmax=tmax, channels=channels, low=low, high=high, notch=notch, unit=unit
    )
    made = named_decoders(decoders.split(","), trials.sfreq)
    with options.progress_bar(quiet) as progress:
        found = judge(made, trials, split=split, folds=folds, seeds=range(seeds), progress=progress)
    if plot is not None:
        draw_evaluation(found, plot)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: options.print_evaluation(found))
