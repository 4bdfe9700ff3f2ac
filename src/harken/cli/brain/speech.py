"""``harken brain speech``: find the speech that was heard among candidates, from M/EEG."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.data.brain_speech import SpeechTrials
    from harken.tasks.brain_speech import SpeechEvaluation

_SPEECH, _MODEL = "Speech", "Model"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("speech", no_args_is_help=True)(speech)


def speech(
    signals: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[EEG]...", help="Recordings: what MNE reads, .npz or CSV. Each is another listener."),
    ] = None,
    audio: Annotated[
        list[Path] | None,
        typer.Option(help="What was heard: a file for each recording, or one for all.", rich_help_panel=_SPEECH),
    ] = None,
    lead: Annotated[
        float, typer.Option(help="Seconds of the recording before the audio began.", rich_help_panel=_SPEECH)
    ] = 0.0,
    subjects: Annotated[
        str | None,
        typer.Option(help="Whose the recordings are, 0,0,1 say.", show_default="all differ", rich_help_panel=_SPEECH),
    ] = None,
    simulate: Annotated[
        bool,
        typer.Option(
            "--simulate",
            help="Take the one recording as noise, and add what simulated listeners to the audio (files or a folder) "
            "would show in it.",
            rich_help_panel=_SPEECH,
        ),
    ] = False,
    demo: Annotated[
        bool, typer.Option("--demo", help="Simulate everything: made-up sound in pink noise.", rich_help_panel=_SPEECH)
    ] = False,
    snr: Annotated[float, typer.Option(help="Of simulated responses, decibels.", rich_help_panel=_SPEECH)] = -15.0,
    listeners: Annotated[int, typer.Option(min=1, max=64, help="Simulated.", rich_help_panel=_SPEECH)] = 3,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of a segment.", rich_help_panel=_SPEECH)] = 3.0,
    step: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Seconds between segments.", show_default="one after the other", rich_help_panel=_SPEECH
        ),
    ] = None,
    bands: Annotated[int, typer.Option(min=1, max=256, help="Mel bands.", rich_help_panel=_SPEECH)] = 40,
    sfreq: Annotated[float, typer.Option(help="Rate that all is brought to.", rich_help_panel=options.SIGNALS)] = 120.0,
    channels: options.Channels = None,
    unit: options.Unit = "uV",
    decoder: Annotated[
        Path | None,
        typer.Option(help="Judge this trained decoder instead of training one.", rich_help_panel=_MODEL),
    ] = None,
    target: Annotated[
        str,
        typer.Option(help="Match mel bands (features), or what is learned of them (deep-mel).", rich_help_panel=_MODEL),
    ] = "features",
    hidden: Annotated[int, typer.Option(min=1, max=4096, help="Channels inside.", rich_help_panel=_MODEL)] = 48,
    layers: Annotated[int, typer.Option(min=1, max=100, help="Convolutions.", rich_help_panel=_MODEL)] = 6,
    epochs: Annotated[int, typer.Option(min=1, help="At most.", rich_help_panel=_MODEL)] = 60,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=_MODEL)] = 1e-3,
    baselines: Annotated[
        str,
        typer.Option(help="Beside it: ridge, regression, both with a comma, or none.", rich_help_panel=options.JUDGING),
    ] = "ridge",
    block: Annotated[
        float, typer.Option(help="Seconds of sound that are not parted.", rich_help_panel=options.JUDGING)
    ] = 12.0,
    seeds: options.Seeds = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the trained decoder.", rich_help_panel=options.RESULTS),
    ] = None,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Find which stretch of speech a person heard, among many that the decoder has never met.

    Recordings and speech are cut into segments. A fifth of the sound is put aside, in whole blocks and for all
    listeners; the rest trains a network that maps signals to speech features, so that own segments match and others do
    not. Then every segment put aside is looked for among all of them: how often is the right one the best, or among the
    ten best? A linear decoder stands beside it, and chance.

    Examples: harken brain speech p1.edf p2.edf --audio story.wav --plot curve.png --out decoder

    harken brain speech p1.edf p2.edf --audio another.wav --decoder decoder

    harken brain speech resting.edf --audio speech/ --simulate --snr -5

    harken brain speech --demo --epochs 10
    """
    from harken.cli.training import need
    from harken.errors import InputError
    from harken.figures import require_matplotlib

    if plot is not None:
        require_matplotlib()
    need("sklearn", extra="brain")
    if demo and (signals or audio or decoder):
        raise InputError("--demo makes up its own signals and speech: give no files with it")
    if not demo and not (signals and audio):
        raise InputError("give recordings and, by --audio, what was heard in them; or --demo")
    if simulate and (not signals or len(signals) != 1):
        raise InputError("--simulate takes one recording, as the noise around simulated responses")

    from harken.models.brain.speech_decoder import BrainSpeechDecoder
    from harken.tasks.brain_speech import draw_retrieval, evaluate_speech, judge_saved, pair_files

    names = options.channel_names(channels)
    cut: dict[str, Any] = {"sfreq": sfreq, "bands": bands, "seconds": seconds, "step": step}
    if demo or simulate:
        trials = _simulated(signals, audio, {**cut, "listeners": listeners, "snr": snr}, names, unit)
    else:
        whose = None if subjects is None else _numbers(subjects)
        trials = pair_files(signals or [], audio or [], subjects=whose, lead=lead, channels=names, unit=unit, **cut)
    if decoder is not None:
        found = judge_saved(BrainSpeechDecoder.load(decoder), trials)
    else:

        def make(seed: int) -> BrainSpeechDecoder:
            return BrainSpeechDecoder(
                sfreq=sfreq,
                bands=bands,
                baseline=min(0.5, seconds / 6),
                target=target,  # type: ignore[arg-type]  # checked by fit
                hidden=hidden,
                layers=layers,
                epochs=epochs,
                lr=lr,
                seed=seed,
            )

        beside = [name.strip() for name in baselines.split(",") if name.strip() not in ("", "none")]
        with options.progress_bar(quiet) as progress:
            found = evaluate_speech(trials, make, seeds=range(seeds), baselines=beside, block=block, progress=progress)
    if out is not None and found.decoder is not None:
        found.decoder.save(out)
    if plot is not None:
        draw_retrieval(found, plot)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: _show(found))


def _simulated(
    signals: list[Path] | None, audio: list[Path] | None, cut: dict[str, Any], names: list[str] | None, unit: str
) -> SpeechTrials:
    from harken.data.brain_files import read_recording
    from harken.tasks.simulate_listening import simulate_listening, speech_files, synthetic_speech

    noise = read_recording(signals[0], channels=names, unit=unit) if signals else None
    if audio:
        return simulate_listening(speech_files(audio), noise=noise, **cut)
    made = simulate_listening(synthetic_speech(12, 16 * cut["seconds"]), noise=noise, **cut)
    return replace(made, note="simulated: nobody spoke, nobody listened")


def _numbers(subjects: str) -> list[int]:
    from harken.errors import InputError

    try:
        return [int(part) for part in subjects.split(",")]
    except ValueError:
        raise InputError(f"--subjects takes numbers with commas, 0,0,1 say, got '{subjects}'") from None


def _show(found: SpeechEvaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("decoder", "top 1", "top 10", "± seeds", "median rank"):
        table.add_column(name, justify="left" if name == "decoder" else "right")
    told = found.as_json()
    for one in told["decoders"]:
        first, ten = (f"{one[k]:.1%}" if k in one else "-" for k in ("top1", "top10"))
        spread = f"{one['top10_std_over_seeds']:.1%}" if "top10" in one else "-"
        table.add_row(one["decoder"], first, ten, spread, f"{one['median_rank']:.0f}")
    table.add_row("chance", *(f"{told['chance'][k]:.1%}" for k in ("top1", "top10")), "", f"{found.candidates / 2:.0f}")
    console = Console(highlight=False)
    console.print(table)
    trained, _, judged = found.sizes
    console.print(
        f"{judged} segments of {found.seconds:g} s looked for among {found.candidates}, none of them heard in training"
        + (f" ({trained} trials)" if trained else "")
    )
    for note in found.notes:
        console.print(f"note: {note}")
