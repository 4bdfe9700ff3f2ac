"""``harken brain attend``: which of two talkers does a listener attend to?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    import numpy as np

    from harken.data.brain import Recording

_SCENE = "Scene"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("attend", no_args_is_help=True)(attend)


def attend(
    signals: Annotated[
        Path | None, typer.Argument(metavar="[EEG]", help="The recording: what MNE reads, .npz or CSV.")
    ] = None,
    streams: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="The two talkers, each alone: A.wav B.wav.", rich_help_panel=_SCENE),
    ] = None,
    mixture: Annotated[
        Path | None, typer.Option(help="What was heard, both talkers together.", rich_help_panel=_SCENE)
    ] = None,
    voices: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            help="An example of each voice: the talkers are extracted from the mixture.", rich_help_panel=_SCENE
        ),
    ] = None,
    attended: Annotated[
        str | None,
        typer.Option(help="Who was attended, A or B: trains a decoder on this recording.", rich_help_panel=_SCENE),
    ] = None,
    lead: Annotated[
        float, typer.Option(help="Seconds of the recording before the sound began.", rich_help_panel=_SCENE)
    ] = 0.0,
    demo: Annotated[
        bool, typer.Option("--demo", help="Simulate all: made-up sound, pink noise.", rich_help_panel=_SCENE)
    ] = False,
    simulate: Annotated[
        float | None,
        typer.Option(
            help="Take the recording as noise and add what a simulated listener to --attended would show in it, at so "
            "many decibels.",
            rich_help_panel=_SCENE,
        ),
    ] = None,
    decoder: Annotated[
        Path | None, typer.Option(help="A decoder trained before on this listener.", rich_help_panel=options.JUDGING)
    ] = None,
    window: Annotated[
        float, typer.Option(min=0.5, help="Seconds of a decision.", rich_help_panel=options.JUDGING)
    ] = 10.0,
    trial: Annotated[
        float, typer.Option(min=1, help="Seconds of a trial, when training.", rich_help_panel=options.JUDGING)
    ] = 20.0,
    sfreq: Annotated[
        float, typer.Option(min=8, help="Rate that all is brought to.", rich_help_panel=options.SIGNALS)
    ] = 64.0,
    channels: options.Channels = None,
    low: options.Low = None,
    high: options.High = None,
    unit: options.Unit = "uV",
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help="A question about the scene, from the side of the attended talker; may be repeated.",
            rich_help_panel=options.RESULTS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--language-model",
            help="Let this audio language model of Hugging Face answer, such as Qwen/Qwen2-Audio-7B-Instruct.",
            show_default="answers are measured",
            rich_help_panel=options.RESULTS,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the attended talker here.", rich_help_panel=options.RESULTS),
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Folder for the trained decoder.", rich_help_panel=options.RESULTS)
    ] = None,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Tell which of two talkers a listener attends to, and describe both.

    The envelope of the attended talker is reconstructed from the recording and compared with those of the two. A
    decoder is a listener's own: with --attended one is trained on this recording and judged on trials that it has not
    seen, for windows of several lengths; with --decoder a trained one decides. Pitch, tempo and loudness of each talker
    are measured.

    --ask puts questions: who is attended, how high, fast or loud they or the other are, who is louder. Those are
    answered by measurement; what was said needs --language-model.

    Examples: harken brain attend s1.edf --streams a.wav b.wav --attended A --save decoder --plot attention.png

    harken brain attend s2.edf --mixture room.wav --voices a.wav b.wav --decoder decoder -o heard.wav

    harken brain attend --demo --ask "How fast does the attended talker speak?" --ask "Who is louder?"
    """
    from harken.cli.training import need
    from harken.errors import InputError
    from harken.figures import require_matplotlib

    if plot is not None:
        require_matplotlib()
    need("sklearn", extra="brain")
    if not demo and signals is None:
        raise InputError("give a recording, or --demo")
    if not demo and streams is None and (mixture is None or voices is None):
        raise InputError("give the two talkers by --streams, or --mixture with an example of each voice by --voices")
    if not demo and (attended is None) == (decoder is None):
        raise InputError("say who was attended (--attended A), to train a decoder, or give a trained one (--decoder)")
    if attended is not None and attended not in ("A", "B"):
        raise InputError(f"--attended takes A or B, got '{attended}'")

    from harken.models.brain.envelope_decoder import EnvelopeDecoder
    from harken.tasks.attend import attend as decide
    from harken.tasks.attend import draw_attention, extract_voices, train_decoder
    from harken.tasks.simulate_listening import simulate_attention, speech_files, synthetic_speech

    number = 0 if attended != "B" else 1
    notes: tuple[str, ...] = ()
    if demo:
        talkers = synthetic_speech(2, 120.0)
        recording = simulate_attention(talkers, number, snr=-15.0 if simulate is None else simulate, sfreq=sfreq)
        notes = ("simulated: nobody spoke, nobody listened",)
    else:
        talkers = speech_files(streams) if streams else extract_voices(_given(mixture), voices or ())
        recording = _read(_given(signals), channels, low, high, unit)
        if simulate is not None:
            around = recording.resampled(sfreq)
            recording = simulate_attention(talkers, number, noise=around, snr=simulate, sfreq=sfreq)
            notes = ("semi-simulated: the responses to the talkers are computed and added to the recording",)
    if decoder is not None:
        found = decide(recording, talkers, EnvelopeDecoder.load(decoder), window=window, lead=lead)
    else:
        with options.progress_bar(quiet) as progress:
            made, found = train_decoder(
                recording, talkers, number, window=window, trial=trial, sfreq=sfreq, lead=lead, progress=progress
            )
        if save is not None:
            made.save(save)
    found = replace(found, notes=(*found.notes, *notes))
    answers = _answers(ask or [], found, talkers, model)
    if out is not None:
        _write(out, talkers[found.talker])
    if plot is not None:
        draw_attention(found, plot)
    told = {**found.as_json(), "answers": [{"question": q, "answer": a} for q, a in answers]}
    options.tell(told, report=report, as_json=as_json, text=lambda: _show(found, answers))


def _answers(questions: list[str], found: Any, talkers: Any, model: str | None) -> list[tuple[str, str]]:
    from harken.tasks.scene_questions import language_model, measured_answer, model_answer

    if model is None:
        return [(question, measured_answer(question, found)) for question in questions]
    answerer, embed = language_model(model)
    return [(question, model_answer(question, found, talkers, answerer, embed=embed)) for question in questions]


def _given(path: Path | None) -> Path:
    assert path is not None  # checked where options are
    return path


def _read(path: Path, channels: str | None, low: float | None, high: float | None, unit: str) -> Recording:
    from harken.data.brain_files import read_recording

    recording = read_recording(path, channels=options.channel_names(channels), unit=unit)
    return recording if low is None and high is None else recording.filtered(low, high)


def _write(path: Path, samples: np.ndarray) -> None:
    from harken.data.audio import Audio, write
    from harken.tasks.attend import RATE

    write(path, Audio(samples, RATE))


def _show(found: Any, answers: list[tuple[str, str]]) -> None:
    typer.echo(found.text())
    for question, answer in answers:
        typer.echo(f"{question} {answer}")
    if found.accuracy:
        typer.echo("right decisions on trials not trained on, by seconds of a window (chance 50 %):")
        typer.echo("  " + "  ".join(f"{seconds:g} s {share:.0%}" for seconds, share in sorted(found.accuracy.items())))
    for note in found.notes:
        typer.echo(f"note: {note}")
