"""``harken brain ssvep``: spellers by flicker: judge methods, train the network, read trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.data.ssvep import SSVEPTrials
    from harken.tasks.ssvep import SSVEPReport

_NETWORK = "Network"

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Labelled trials or a recording with events: .npz, what MNE reads, CSV; .mat of 12JFPM, Benchmark or "
        "BETA, or a folder of them.",
    ),
]
Frequencies = Annotated[
    str | None,
    typer.Option(
        help="Of the flicker of each class in hertz, separated by commas, in the order of the classes.",
        show_default="what the file says",
        rich_help_panel=options.SIGNALS,
    ),
]
Latency = Annotated[
    float,
    typer.Option(
        help="Seconds from the flicker to the cortex: where trials of recordings begin without --tmin.",
        rich_help_panel=options.SIGNALS,
    ),
]
Bands = Annotated[int, typer.Option(min=1, max=10, help="Sub-bands.", rich_help_panel=_NETWORK)]
Filters = Annotated[int, typer.Option(min=1, help="Of the network (120 in the paper).", rich_help_panel=_NETWORK)]
Epochs = Annotated[int, typer.Option(min=1, help="Of the stage that everybody shares.", rich_help_panel=_NETWORK)]
PersonalEpochs = Annotated[
    int, typer.Option(min=1, help="Of each person's own stage, where there are several.", rich_help_panel=_NETWORK)
]
LearningRate = Annotated[float, typer.Option("--lr", help="Of Adam.", rich_help_panel=_NETWORK)]
Weights = Annotated[Path, typer.Option(help="Folder that train wrote.")]


def register(brain: typer.Typer) -> None:
    """Add the commands."""
    ssvep = typer.Typer(no_args_is_help=True, help="Spellers by flicker: which of the frequencies is looked at.")
    ssvep.callback()(_group)
    for command in (evaluate, train, predict):
        ssvep.command(command.__name__, no_args_is_help=True)(command)
    brain.add_typer(ssvep, name="ssvep")


def _group() -> None:
    """Spellers by flicker: which of the frequencies is looked at (SSVEP)."""


def evaluate(
    data: Data,
    windows: Annotated[
        str, typer.Option(help="Seconds of signal, separated by commas.", rich_help_panel=options.JUDGING)
    ] = "0.25,0.5,1",
    methods: Annotated[
        str,
        typer.Option(
            help="cca, fbcca (no training), fbcca-calibrated, trca, etrca, dnn (the network).",
            rich_help_panel=options.JUDGING,
        ),
    ] = "cca,fbcca,etrca",
    frequencies: Frequencies = None,
    seeds: options.Seeds = 1,
    gaze_shift: Annotated[
        float, typer.Option(help="Seconds between selections, in the bits a minute.", rich_help_panel=options.JUDGING)
    ] = 0.5,
    harmonics: Annotated[int, typer.Option(min=1, help="Of the sine references.", rich_help_panel=_NETWORK)] = 3,
    bands: Bands = 3,
    filters: Filters = 32,
    epochs: Epochs = 100,
    subject_epochs: PersonalEpochs = 50,
    lr: LearningRate = 1e-3,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    latency: Latency = 0.14,
    channels: options.Channels = None,
    notch: options.Notch = None,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge methods by the length of the window: accuracy, and bits a minute with the time to shift the gaze.

    One session (recording, block) is left out in turn. cca and fbcca need no training; trca and etrca compare with each
    person's mean trials; dnn is the network. Take the mains out of recordings with --notch: a flicker whose harmonic
    lies on it is otherwise seen everywhere.

    Example: harken brain ssvep evaluate muse.npz --tmax 2.9 --notch 60 --frequencies 30,20 --plot itr.png
    """
    from harken.figures import require_matplotlib
    from harken.tasks.ssvep import Settings, draw_windows, evaluate_windows

    if plot is not None:
        require_matplotlib()
    lengths = _numbers(windows, "--windows")
    trials = _load(data, frequencies, sfreq, tmin, tmax, latency, channels, notch)
    network = {"filters": filters, "epochs": epochs, "subject_epochs": subject_epochs, "lr": lr, "subject_lr": lr}
    settings = Settings(bands, harmonics, gaze_shift, network)
    names = [name.strip() for name in methods.split(",") if name.strip()]
    with options.progress_bar(quiet) as progress:
        found = evaluate_windows(trials, lengths, names, settings=settings, seeds=range(seeds), progress=progress)
    if plot is not None:
        draw_windows(found, plot, title=data.name)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: _print(found))


def train(
    data: Data,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the decoder.")] = Path("runs/ssvep"),
    window: Annotated[
        float | None, typer.Option(help="Seconds it looks at.", show_default="whole trials", rich_help_panel=_NETWORK)
    ] = None,
    frequencies: Frequencies = None,
    bands: Bands = 3,
    filters: Filters = 32,
    epochs: Epochs = 100,
    subject_epochs: PersonalEpochs = 50,
    lr: LearningRate = 1e-3,
    seed: options.Seed = 0,
    torchscript: Annotated[
        Path | None, typer.Option(help="Also write the common network, fused, as TorchScript.")
    ] = None,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    latency: Latency = 0.14,
    channels: options.Channels = None,
    notch: options.Notch = None,
    quiet: options.Quiet = False,
) -> None:
    """Train the network on all trials of a file: one for everybody, then one for each person where there are several.

    Example: harken brain ssvep train muse.npz --tmax 2.9 --notch 60 --window 0.5 --out runs/muse
    """
    from harken.models.brain.ssvep_classifier import SSVEPClassifier

    trials = _load(data, frequencies, sfreq, tmin, tmax, latency, channels, notch)
    several = len(set(trials.subject.tolist())) > 1
    with options.progress_bar(quiet) as progress:
        decoder = SSVEPClassifier(
            trials.sfreq, window=window, bands=bands, filters=filters, epochs=epochs, subject_epochs=subject_epochs,
            lr=lr, subject_lr=lr, seed=seed, progress=progress,
        )  # fmt: skip
        decoder.fit(trials, trials.labels, subject=trials.subject if several else None)
    decoder.progress = None
    decoder.save(out)
    if torchscript is not None:
        decoder.export(torchscript)
    people = f", {len(decoder.subjects_)} people" if several else ""
    loss = decoder.history_[-1]["loss"]
    typer.echo(f"{out}: {len(trials)} trials of {len(trials.classes)} classes{people}; last loss {loss:.3f}")
    typer.echo("that is on what it learned from: 'harken brain ssvep evaluate' judges")


def predict(
    data: Data,
    weights: Weights,
    subject: Annotated[int | None, typer.Option(help="Whose network.", show_default="the one for everybody")] = None,
    frequencies: Frequencies = None,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    latency: Latency = 0.14,
    channels: options.Channels = None,
    notch: options.Notch = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell which flicker was looked at in each trial, by a network that train made.

    Example: harken brain ssvep predict today.npz --weights runs/muse --tmax 0.64 --notch 60
    """
    from harken.models.brain.ssvep_classifier import SSVEPClassifier

    decoder = SSVEPClassifier.load(weights)
    trials = _load(data, frequencies, sfreq, tmin, tmax, latency, channels, notch)
    found = decoder.predict_proba(trials, subject=subject)
    rows = [
        {"trial": number, "class": str(decoder.classes_[row.argmax()]), "probability": round(float(row.max()), 4)}
        for number, row in enumerate(found)
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
        return
    for one in rows:
        typer.echo(f"{one['trial']}\t{one['class']}\t{one['probability']:.3f}")


def _load(
    data: Path,
    frequencies: str | None,
    sfreq: float | None,
    tmin: float | None,
    tmax: float | None,
    latency: float,
    channels: str | None,
    notch: float | None,
) -> SSVEPTrials:
    from harken.data.ssvep import read_ssvep

    return read_ssvep(
        data,
        frequencies=None if frequencies is None else _numbers(frequencies, "--frequencies"),
        sfreq=sfreq,
        tmin=tmin,
        tmax=tmax,
        channels=options.channel_names(channels),
        notch=notch,
        latency=latency,
    )


def _numbers(text: str, option: str) -> list[float]:
    from harken.errors import InputError

    try:
        numbers = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < 1e6 for number in numbers):
        raise InputError(f"{option} takes positive numbers separated by commas, got '{text}'")
    return numbers


def _print(report: SSVEPReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("method", "window", "accuracy", "±", "bits a minute", "±", "kappa"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for one in report.results:
        row = one.as_json()
        table.add_row(
            one.method,
            f"{one.window:g} s",
            f"{100 * row['accuracy']:.1f} %",
            f"{100 * row['accuracy_spread']:.1f}",
            f"{row['itr_bits_per_minute']:.1f}",
            f"{row['itr_spread']:.1f}",
            f"{row['kappa']:.2f}",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{report.trials} trials, {report.split}; chance {100 * report.chance:.1f} %, "
        f"the largest class {100 * report.largest_class:.1f} %"
    )
