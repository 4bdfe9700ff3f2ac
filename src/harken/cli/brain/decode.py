"""``harken brain decode``: train and judge a DBConformer, keep it, and let it name the classes of new trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.data.brain import Trials

_MODEL, _DECODER = "Model", "A decoder of your own"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("decode", no_args_is_help=True)(decode)


def decode(
    data: options.Data,
    decoder: Annotated[
        Path | None,
        typer.Option(help="Train nothing: let this saved decoder name the classes of DATA.", rich_help_panel=_DECODER),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Folder for a decoder trained on all of DATA.", rich_help_panel=_DECODER),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="With --decoder: write the classes as CSV here.", rich_help_panel=_DECODER),
    ] = None,
    alignment: Annotated[
        str,
        typer.Option(
            help="Euclidean alignment: none, offline (whitened as the training trials were), transductive (by the test "
            "trials themselves, all at once) or online (by those up to the one decoded).",
            rich_help_panel=_MODEL,
        ),
    ] = "none",
    branch: Annotated[str, typer.Option(help="both, temporal or spatial.", rich_help_panel=_MODEL)] = "both",
    attention: Annotated[
        str, typer.Option(help="Any bidirectional mechanism, options behind a colon.", rich_help_panel=_MODEL)
    ] = "softmax",
    patch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of a temporal token.", show_default="an eighth of a trial", rich_help_panel=_MODEL
        ),
    ] = None,
    dim: Annotated[int, typer.Option(min=10, help="Width; a multiple of 10.", rich_help_panel=_MODEL)] = 40,
    layers: Annotated[int, typer.Option(min=1, help="Blocks of each branch.", rich_help_panel=_MODEL)] = 2,
    shift: Annotated[
        float, typer.Option(help="Move training trials by up to this share of their length.", rich_help_panel=_MODEL)
    ] = 0.0,
    missing: Annotated[
        str, typer.Option(help="Channels that trials lack: error, or mask.", rich_help_panel=_MODEL)
    ] = "error",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training trials.", rich_help_panel=_MODEL)] = 100,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_MODEL)] = 1e-3,
    validation: Annotated[
        float,
        typer.Option(
            help="Share of the training trials that decides when to stop; 0 runs all epochs.", rich_help_panel=_MODEL
        ),
    ] = 0.2,
    split: options.SplitOption = "within-session",
    folds: options.Folds = 5,
    seeds: options.Seeds = 1,
    baselines: Annotated[
        str,
        typer.Option(
            help="Classical decoders beside it: csp-lda, riemann, band-power, means-lda; none of them: ''.",
            rich_help_panel=options.JUDGING,
        ),
    ] = "csp-lda,riemann,band-power",
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
    """Train a DBConformer on labelled trials, judge it without leakage beside classical decoders, and keep it.

    One branch attends over time, the other over channels; --plot shows accuracies, confusions, and how much each
    channel counts, on the head where the sensors' places are known. With --decoder nothing is trained: the classes of
    new trials are written.

    Examples: harken brain decode FingerMovements.npz --split cross-session --save fingers --plot fingers.png

    harken brain decode new.npz --decoder fingers --out classes.csv
    """
    from harken.errors import InputError
    from harken.figures import require_matplotlib

    if plot is not None:
        require_matplotlib()
    if decoder is not None and (save is not None or plot is not None):
        raise InputError("--decoder trains nothing: leave --save and --plot out")
    if decoder is None and out is not None:
        raise InputError("--out is for the classes that --decoder names: use --report for the evaluation")
    trials = options.load_trials(
        data, sfreq=sfreq, tmin=tmin, tmax=tmax, channels=channels, low=low, high=high, notch=notch, unit=unit
    )
    if decoder is not None:
        _apply(decoder, trials, out, report, as_json)
        return
    from harken.tasks import decode_trials

    parameters = {
        "alignment": alignment, "branch": branch, "attention": attention, "patch": patch, "dim": dim, "layers": layers,
        "shift": shift, "missing": missing, "epochs": epochs, "lr": lr, "validation": validation,
    }  # fmt: skip
    with options.progress_bar(quiet) as progress:
        found = decode_trials.decode(
            trials,
            parameters=parameters,
            split=split,
            folds=folds,
            seeds=range(seeds),
            baselines=[name.strip() for name in baselines.split(",") if name.strip()],
            keep=save is not None or plot is not None,
            progress=progress,
        )
    if save is not None:
        found.decoder.save(save)
    if plot is not None:
        decode_trials.draw_decoding(found, plot)
    options.tell(
        found.as_json(), report=report, as_json=as_json, text=lambda: options.print_evaluation(found.evaluation)
    )


def _apply(decoder: Path, trials: Trials, out: Path | None, report: Path | None, as_json: bool) -> None:
    from harken.tasks.decode_trials import apply_decoder

    found = apply_decoder(decoder, trials)
    if out is not None:
        found.save(out)

    def text() -> None:
        for number, name in enumerate(found.named if out is None else ()):
            typer.echo(f"{number}: {name} {found.probability[number].max():.1%}")
        judged = "" if found.accuracy is None else f", {found.accuracy:.1%} as labelled"
        typer.echo(f"{len(found.named)} trials{judged}")

    options.tell(found.as_json(), report=report, as_json=as_json, text=text)
