"""``harken brain seizure``: train a detector of seizures or other states, judge it, slide it along a recording."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.data.brain import Trials
    from harken.tasks.find_seizures import SeizureReport

_DETECTOR, _TRAINING, _EVENTS = "Detector", "Training", "Events"

SegmentSeconds = Annotated[
    float, typer.Option(help="Seconds of a segment, what becomes one token a channel.", rich_help_panel=_DETECTOR)
]
Dim = Annotated[int, typer.Option(min=4, help="Width, a multiple of 4.", rich_help_panel=_DETECTOR)]
Layers = Annotated[int, typer.Option(min=1, help="Blocks.", rich_help_panel=_DETECTOR)]
AttentionName = Annotated[
    str, typer.Option("--attention", help="The mechanism; multivariate is the paper's.", rich_help_panel=_DETECTOR)
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over trials with labels.", rich_help_panel=_TRAINING)]
Pretrain = Annotated[
    int,
    typer.Option(
        "--pretrain", min=0, help="Passes before that without labels: tell the next segment from others.",
        rich_help_panel=_TRAINING,
    ),
]  # fmt: skip
Tune = Annotated[
    str,
    typer.Option(
        help="After --pretrain: all, or lora, which moves queries, values and the classifier alone.",
        rich_help_panel=_TRAINING,
    ),
]
Lr = Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_TRAINING)]


def register(brain: typer.Typer) -> None:
    """Add the commands."""
    seizure = typer.Typer(no_args_is_help=True, help="Find seizures, or tell brain states apart, from few labels.")
    seizure.callback()(_group)
    for command in (train, evaluate, apply):
        seizure.command(no_args_is_help=True)(command)
    brain.add_typer(seizure, name="seizure")


def _group() -> None:
    """Find seizures, or tell any brain states apart, with MVPFormer (arXiv 2506.20354).

    It learns on labelled trials, after passes over signals without labels if so wished, and runs along recordings.
    No weights ship: recordings of seizures may not be passed on as they are. Research only, not a medical device.
    """


def train(
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the detector.")] = Path("detector"),
    unlabelled: Annotated[
        list[Path] | None,
        typer.Option(help="More trials for --pretrain, whose labels are not looked at.", rich_help_panel=_TRAINING),
    ] = None,
    segment: SegmentSeconds = 1.0,
    dim: Dim = 64,
    layers: Layers = 3,
    attention: AttentionName = "multivariate",
    pretrain: Pretrain = 0,
    tune: Tune = "all",
    epochs: Epochs = 60,
    lr: Lr = 1e-3,
    seed: options.Seed = 0,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    channels: options.Channels = None,
    low: options.Low = None,
    high: options.High = None,
    notch: options.Notch = None,
    unit: options.Unit = "uV",
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a detector on labelled trials and save it.

    A fifth of the trials, the last of each class, decides when to stop. Trials are the detector's window: it will look
    back as long as they are, so cut long ones with --tmax.

    Example: harken brain seizure train bonn.npz --sfreq 173.61 --pretrain 20 --out detector
    """
    from harken.models.brain.seizure import SeizureDetector

    given: dict[str, Any] = {
        "sfreq": sfreq, "tmin": tmin, "tmax": tmax, "channels": channels, "low": low, "high": high, "notch": notch,
        "unit": unit,
    }  # fmt: skip
    trials = options.load_trials(data, **given)
    more = options.load_trials(unlabelled, **given) if unlabelled else None
    with options.progress_bar(quiet) as progress:
        detector = SeizureDetector(
            **_sizes(trials, segment, dim, layers, attention, pretrain, tune, epochs, lr),
            seed=seed,
            progress=progress,
        )
        detector.fit(trials, trials.labels, unlabelled=more)
    detector.save(out)
    result = {
        "detector": str(out),
        "classes": detector.classes_.tolist(),
        "trials": len(trials),
        "segments_per_trial": trials.x.shape[2] // detector.segment,
        "sfreq": trials.sfreq,
        "history": detector.history_,
        "pretrain_history": detector.pretrain_history_,
    }
    last = min(detector.history_, key=lambda entry: entry.get("validation_loss", entry["loss"]))

    def text() -> None:
        losses = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in last.items())
        typer.echo(f"{out}: {len(trials)} trials, {', '.join(map(str, detector.classes_))}; {losses}")
        typer.echo(f"use it: harken brain seizure apply RECORDING --weights {out} --event {detector.classes_[-1]}")

    options.tell(result, report=report, as_json=as_json, text=text)


def evaluate(
    data: options.Data,
    split: options.SplitOption = "within-session",
    folds: options.Folds = 5,
    seeds: options.Seeds = 1,
    segment: SegmentSeconds = 1.0,
    dim: Dim = 64,
    layers: Layers = 3,
    attention: AttentionName = "multivariate",
    pretrain: Pretrain = 0,
    tune: Tune = "all",
    epochs: Epochs = 60,
    lr: Lr = 1e-3,
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
    """Judge the detector on trials it has not seen, beside logistic regression on band powers.

    Passes without labels, too, see the training trials of each fold alone.

    Example: harken brain seizure evaluate bonn.npz --sfreq 173.61 --folds 5 --plot bonn.png
    """
    from harken.figures import require_matplotlib
    from harken.models.brain.seizure import SeizureDetector
    from harken.tasks.brain_evaluation import baseline_decoders, draw_evaluation
    from harken.tasks.brain_evaluation import evaluate as judge

    if plot is not None:
        require_matplotlib()
    trials = options.load_trials(
        data, sfreq=sfreq, tmin=tmin, tmax=tmax, channels=channels, low=low, high=high, notch=notch, unit=unit
    )
    sizes = _sizes(trials, segment, dim, layers, attention, pretrain, tune, epochs, lr)

    def make(seed: int) -> SeizureDetector:
        return SeizureDetector(**sizes, seed=seed)

    decoders = {"SeizureDetector": make, **baseline_decoders(["band-power"], trials.sfreq)}
    with options.progress_bar(quiet) as progress:
        found = judge(decoders, trials, split=split, folds=folds, seeds=range(seeds), progress=progress)
    if plot is not None:
        draw_evaluation(found, plot)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: options.print_evaluation(found))


def apply(
    recording: Annotated[Path, typer.Argument(help="EDF, BDF, GDF, FIF, BrainVision, EEGLAB, .npz or CSV.")],
    weights: Annotated[Path, typer.Option(help="Folder that 'train' wrote.")],
    event: Annotated[str, typer.Option(help="Which class is looked for.", rich_help_panel=_EVENTS)],
    threshold: Annotated[float, typer.Option(help="Probability above which it is one.", rich_help_panel=_EVENTS)] = 0.5,
    shortest: Annotated[float, typer.Option(help="Drop events below so many seconds.", rich_help_panel=_EVENTS)] = 0.0,
    gap: Annotated[float, typer.Option(help="Join events closer than so many seconds.", rich_help_panel=_EVENTS)] = 0.0,
    step: Annotated[
        int, typer.Option(min=1, help="Segments from one decision to the next.", rich_help_panel=_EVENTS)
    ] = 1,
    truth: Annotated[
        Path | None,
        typer.Option(help="Real events to judge by: start and end in seconds, one a line.", rich_help_panel=_EVENTS),
    ] = None,
    sfreq: options.Sfreq = None,
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
    """Slide a trained detector along a recording, and list the events it finds.

    With --truth they are judged: events found, false ones an hour, F1, and Cohen's kappa of the windows. Filter as
    the training trials were filtered.

    Example: harken brain seizure apply night.edf --weights detector --event ictal --shortest 5 --plot night.png
    """
    from harken.data.brain_files import read_recording
    from harken.errors import InputError
    from harken.figures import require_matplotlib
    from harken.models.brain import load_estimator
    from harken.models.brain.seizure import SeizureDetector
    from harken.tasks.find_seizures import draw_course, find_seizures, read_spans

    if plot is not None:
        require_matplotlib()
    detector = load_estimator(weights)
    if not isinstance(detector, SeizureDetector):
        raise InputError(f"'{weights}' holds a {type(detector).__name__}, not a SeizureDetector")
    real = None if truth is None else read_spans(truth)
    found = read_recording(recording, sfreq=sfreq, channels=options.channel_names(channels), unit=unit)
    if detector.sfreq_ is not None:
        found = found.resampled(detector.sfreq_)
    if (low, high, notch) != (None, None, None):
        found = found.filtered(low, high, notch)
    with options.progress_bar(quiet) as progress:
        result = find_seizures(
            detector, found, event, threshold=threshold, step=step, shortest=shortest, gap=gap, truth=real,
            progress=progress,
        )  # fmt: skip
    if plot is not None:
        draw_course(result, found, plot)
    options.tell(result.as_json(), report=report, as_json=as_json, text=lambda: _print(result))


def _sizes(
    trials: Trials, segment: float, dim: int, layers: int, attention: str, pretrain: int, tune: str, epochs: int,
    lr: float,
) -> dict[str, Any]:  # fmt: skip
    from harken.errors import InputError

    samples = round(segment * trials.sfreq)
    if not 0 < samples <= trials.x.shape[2]:
        seconds = trials.x.shape[2] / trials.sfreq
        raise InputError(f"--segment {segment:g} s does not fit trials of {seconds:.3g} s: take a shorter one")
    return {
        "segment": samples,
        "dim": dim,
        "layers": layers,
        "hidden": 2 * dim,
        "attention": attention,
        "pretrain_epochs": pretrain,
        "tune": tune,
        "epochs": epochs,
        "lr": lr,
    }


def _print(result: SeizureReport) -> None:
    minutes = result.seconds / 60
    typer.echo(f"{result.name}: {len(result.events)} events of '{result.event}' in {minutes:.1f} minutes")
    for start, end in result.events:
        inside = (result.course.times > start) & (result.course.times <= end)
        most = float(result.course.probabilities[inside, result.column].max(initial=0.0))
        typer.echo(f"  {start:9.1f} to {end:9.1f} s   probability up to {most:.2f}")
    if result.score is not None and result.kappa is not None and result.f1 is not None:
        score = result.score
        typer.echo(
            f"of {score.found + score.missed} real events {score.found} found; {score.false_per_hour:.2f} false an "
            f"hour; F1 of events {score.f1:.2f}; windows: kappa {result.kappa:.2f}, F1 {result.f1:.2f}"
        )
