"""``harken brain tokens``: signals as words, what they sound like, and what an encoder learns from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from harken.cli.brain import options

_WORDS, _ENCODER = "Words", "Encoder"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("tokens", no_args_is_help=True)(tokens)


def tokens(
    data: options.Data,
    window: Annotated[float, typer.Option(help="Seconds of a word.", rich_help_panel=_WORDS)] = 1.0,
    vocabulary: Annotated[int, typer.Option(min=2, help="How many words.", rich_help_panel=_WORDS)] = 64,
    order: Annotated[int, typer.Option(min=1, help="Poles of a window's model.", rich_help_panel=_WORDS)] = 16,
    warp: Annotated[
        float, typer.Option(help="Above 0, low frequencies are told apart more finely.", rich_help_panel=_WORDS)
    ] = 0.2,
    features: Annotated[
        str, typer.Option(help="What is compared: lpc, cepstral or poles.", rich_help_panel=_WORDS)
    ] = "lpc",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the words as .npz here.", rich_help_panel=_WORDS)
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the tokenizer.", rich_help_panel=_WORDS)] = None,
    classify: Annotated[
        bool, typer.Option("--classify", help="Train and judge the encoder as well.", rich_help_panel=_ENCODER)
    ] = False,
    attention: Annotated[str, typer.Option(help="Any bidirectional mechanism.", rich_help_panel=_ENCODER)] = "relative",
    pretrain_epochs: Annotated[
        int, typer.Option(min=0, help="Passes that fill gaps, before the classes.", rich_help_panel=_ENCODER)
    ] = 30,
    epochs: Annotated[int, typer.Option(min=1, help="Passes that learn the classes.", rich_help_panel=_ENCODER)] = 40,
    split: options.SplitOption = "within-session",
    folds: options.Folds = 5,
    seeds: options.Seeds = 1,
    leaky: Annotated[
        bool,
        typer.Option(
            "--leaky",
            help="Judge a second time with trials parted at random: how much of a published number is recognition of "
            "the person.",
            rich_help_panel=options.JUDGING,
        ),
    ] = False,
    baselines: Annotated[
        str, typer.Option(help="Classical decoders beside it, by commas.", rich_help_panel=options.JUDGING)
    ] = "band-power",
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
    """Turn windows of a signal into words: an all-pole model each, clustered into a vocabulary.

    --plot shows who says which word when, and the spectra of the commonest. With --classify a small BERT fills gaps in
    the sentences, learns the classes and is judged beside counts of words and classical decoders; tokenizer, gaps and
    classes are learned from training trials alone.

    Example: harken brain tokens bonn_eeg.npz --sfreq 173.61 --plot words.png --classify
    """
    from harken.figures import require_matplotlib
    from harken.tasks import tokenise_trials

    if plot is not None:
        require_matplotlib()
    trials = options.load_trials(
        data, sfreq=sfreq, tmin=tmin, tmax=tmax, channels=channels, low=low, high=high, notch=notch, unit=unit
    )
    shared: dict[str, Any] = {"order": order, "warp": warp, "vocabulary": vocabulary, "features": features}
    found = tokenise_trials.tokenise(trials, window=window, **shared)
    evaluations = []
    if classify:
        with options.progress_bar(quiet) as progress:
            evaluations = tokenise_trials.classify_words(
                trials,
                window=window,
                tokenizer=shared,
                network={"attention": attention, "pretrain_epochs": pretrain_epochs, "epochs": epochs},
                split=split,
                folds=folds,
                seeds=range(seeds),
                baselines=[name.strip() for name in baselines.split(",") if name.strip()],
                leaky=leaky,
                progress=progress,
            )
    if out is not None:
        found.save(out)
    if save is not None:
        found.tokenizer.save(save)
    if plot is not None:
        tokenise_trials.draw_tokens(found, plot, evaluations=evaluations)

    def text() -> None:
        count, windows, width = found.words.shape
        typer.echo(f"{found.words.size} words: {count} trials of {windows} windows and {width} channels")
        for word in found.commonest()[:5]:
            share = float((found.words == word).mean())
            peak = (
                "" if found.spectra is None else f", peak at {found.frequencies[found.spectra[word].argmax()]:.1f} Hz"
            )
            typer.echo(f"word {word}: {share:.1%}{peak}")
        for evaluation in evaluations:
            typer.echo("")
            options.print_evaluation(evaluation)

    told = {**found.as_json(), "evaluations": [evaluation.as_json() for evaluation in evaluations]}
    options.tell(told, report=report, as_json=as_json, text=text)
