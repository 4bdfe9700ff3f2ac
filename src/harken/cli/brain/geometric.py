"""``harken brain geometric``: trials as a curved graph, read by a graph network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harken.cli.brain import options

_GRAPH = "Graph"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("geometric", no_args_is_help=True)(geometric)


def geometric(
    data: options.Data,
    nodes: Annotated[
        str, typer.Option(help="trials (one graph of all) or channels (a graph a trial).", rich_help_panel=_GRAPH)
    ] = "trials",
    carries: Annotated[
        str, typer.Option(help="What a node carries: coordinates, spectrum or both.", rich_help_panel=_GRAPH)
    ] = "both",
    neighbours: Annotated[int, typer.Option(min=1, help="That a node is joined to.", rich_help_panel=_GRAPH)] = 8,
    dimensions: Annotated[int, typer.Option(min=1, help="Of the eigenmap.", rich_help_panel=_GRAPH)] = 8,
    iterations: Annotated[int, typer.Option(min=0, help="Of the Ricci flow; 0 for none.", rich_help_panel=_GRAPH)] = 5,
    baselines: Annotated[
        str, typer.Option(help="To compare with, separated by commas.", rich_help_panel=options.JUDGING)
    ] = "band-power",
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
    save: Annotated[
        Path | None, typer.Option(help="Fit on all trials and keep the decoder here.", rich_help_panel=options.RESULTS)
    ] = None,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Classify trials by their geometry: spectra, a graph of neighbours, its eigenmap, Ricci flow, a graph network.

    The picture shows the graph in the first two coordinates of its eigenmap, edges coloured by their curvature (bridges
    between clusters are negative), and how the flow shortens clusters and stretches bridges.

    Example: harken brain geometric bonn_eeg.npz --sfreq 173.61 --seeds 3 --plot geometry.png
    """
    from typing import Any

    from harken.figures import require_matplotlib
    from harken.models.brain.geometric_classifier import GeometricClassifier
    from harken.tasks.brain_evaluation import evaluate, named_decoders
    from harken.tasks.geometry_pictures import draw_geometry

    if plot is not None:
        require_matplotlib()
    trials = options.load_trials(
        data, sfreq=sfreq, tmin=tmin, tmax=tmax, channels=channels, low=low, high=high, notch=notch, unit=unit
    )

    def make(seed: int) -> Any:
        return GeometricClassifier(
            nodes=nodes,  # type: ignore[arg-type]  # checked by fit
            carries=carries,  # type: ignore[arg-type]
            neighbours=neighbours,
            dimensions=dimensions,
            iterations=iterations,
            seed=seed,
        )

    others = named_decoders([name for name in baselines.split(",") if name.strip()], trials.sfreq)
    with options.progress_bar(quiet) as progress:
        found = evaluate(
            {"geometric": make, **others}, trials, split=split, folds=folds, seeds=range(seeds), progress=progress
        )
    if save is not None:
        make(0).fit(trials.x, trials.labels).save(save)
    if plot is not None:
        draw_geometry(make(0), trials, plot)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: options.print_evaluation(found))
