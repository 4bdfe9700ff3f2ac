"""``harken brain efr``: which frequencies of an EEG follow the envelope of a sound."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.brain import options

if TYPE_CHECKING:
    from harken.data.brain import Trials
    from harken.models.brain.envelope_response import EnvelopeResponse

_SOUND = "Sound (one of them)"


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("efr", no_args_is_help=True)(efr)


def efr(
    data: Annotated[
        Path,
        typer.Argument(metavar="EEG", help="A recording, or trials: what MNE reads, .npz, CSV.", show_default=False),
    ],
    audio: Annotated[
        Path | None, typer.Option(help="The sound; EEG and sound begin together.", rich_help_panel=_SOUND)
    ] = None,
    envelope: Annotated[
        Path | None,
        typer.Option(help="Its envelope at the rate of the EEG: .npy, or text.", rich_help_panel=_SOUND),
    ] = None,
    modulation: Annotated[
        float | None, typer.Option(help="Or hertz of an amplitude modulation.", rich_help_panel=_SOUND)
    ] = None,
    align: Annotated[
        str | None,
        typer.Option(
            help="Move the modulation, trial by trial, to where it fits this channel, for markers that jitter; the "
            "others judge.",
            rich_help_panel=_SOUND,
        ),
    ] = None,
    physionet: Annotated[
        bool,
        typer.Option(
            "--physionet",
            help="EEG is a CSV of the Auditory Evoked Potential dataset.",
            rich_help_panel=options.SIGNALS,
        ),
    ] = False,
    label: Annotated[
        str | None, typer.Option("--class", help="Only trials of this class.", rich_help_panel=options.SIGNALS)
    ] = None,
    sfreq: options.Sfreq = None,
    tmin: options.Tmin = None,
    tmax: options.Tmax = None,
    channels: options.Channels = None,
    low: Annotated[float, typer.Option(help="Lower edge, hertz.", rich_help_panel=options.SIGNALS)] = 1.0,
    high: Annotated[float, typer.Option(help="Upper edge, hertz.", rich_help_panel=options.SIGNALS)] = 95.0,
    mains: Annotated[
        float, typer.Option(min=0, help="Hertz of the mains; 0 leaves them in.", rich_help_panel=options.SIGNALS)
    ] = 50.0,
    unit: options.Unit = "uV",
    window: Annotated[
        float,
        typer.Option(help="Seconds of a segment; its inverse is the resolution.", rich_help_panel=options.JUDGING),
    ] = 1.0,
    tapers: Annotated[
        int, typer.Option(min=0, help="Slepian tapers instead of Hann's window.", rich_help_panel=options.JUDGING)
    ] = 0,
    piece: Annotated[
        float | None,
        typer.Option(
            help="Seconds into which a recording is cut, each shifted by itself by chance.",
            show_default="10 for recordings, whole trials",
            rich_help_panel=options.JUDGING,
        ),
    ] = None,
    null: Annotated[
        str, typer.Option(help="What chance is: shift, or phases.", rich_help_panel=options.JUDGING)
    ] = "shift",
    surrogates: Annotated[int, typer.Option(min=19, help="How many.", rich_help_panel=options.JUDGING)] = 200,
    alpha: Annotated[
        float, typer.Option(help="Probability of a false find anywhere.", rich_help_panel=options.JUDGING)
    ] = 0.05,
    seed: options.Seed = 0,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure which frequencies of an EEG follow the envelope of a sound, beside what chance makes.

    Coherence and Welch's transfer function H1 are to be trusted; the ratio of spectra and its pairs of channels are as
    published, and dominated by moments at which the sound has nothing at a frequency. Each comes with the limit that
    the same EEG, shifted against the sound, exceeds anywhere once in twenty times.

    Examples: harken brain efr s01_ex05.csv --physionet --audio song.wav --plot efr.png

    harken brain efr muse.npz --tmax 3 --class 1 --mains 60 --modulation 45 --align TP9 --plot efr.png
    """
    from harken.errors import InputError
    from harken.figures import require_matplotlib
    from harken.models.brain.envelope_following import EnvelopeFollowing
    from harken.tasks import envelope_following as task

    if plot is not None:
        require_matplotlib()
    if sum(given is not None for given in (audio, envelope, modulation)) != 1:
        raise InputError("give one of --audio, --envelope and --modulation: what was heard")
    if align is not None and modulation is None:
        raise InputError("--align moves a modulation: give --modulation with it")
    trials = _load(data, physionet, label, sfreq, tmin, tmax, channels, unit)
    if audio is not None:
        stimulus = task.envelope_of_audio(audio, trials)
    elif envelope is not None:
        stimulus = task.read_envelope(envelope, trials)
    else:
        stimulus = task.modulation_envelope(float(modulation or 0), trials, align)
    if piece is None and len(trials) == 1:
        piece = min(10.0, trials.x.shape[-1] / trials.sfreq)
    with options.progress_bar(quiet) as progress:
        model = EnvelopeFollowing(
            trials.sfreq, window=window, tapers=tapers, null=null,  # type: ignore[arg-type]  # checked by fit
            surrogates=surrogates, alpha=alpha, piece=piece, seed=seed, progress=progress,
        )  # fmt: skip
        found = task.follow(trials, stimulus, model, low=low, high=high, mains=mains or None)
    if plot is not None:
        task.draw_response(found, plot, title=data.name)
    options.tell(found.as_json(), report=report, as_json=as_json, text=lambda: _print(found))


def _load(
    data: Path,
    physionet: bool,
    label: str | None,
    sfreq: float | None,
    tmin: float | None,
    tmax: float | None,
    channels: str | None,
    unit: str,
) -> Trials:
    from harken.data.auditory_evoked import read_auditory_evoked
    from harken.data.brain_files import read_recording, read_trials
    from harken.errors import InputError
    from harken.tasks.envelope_following import as_trials

    names = options.channel_names(channels)
    if physionet:
        recording = read_auditory_evoked(data)
        return as_trials(recording if names is None else recording.pick(names))
    if tmax is None and label is None:
        return as_trials(read_recording(data, sfreq=sfreq, channels=names, unit=unit))
    trials = read_trials(data, tmin=tmin, tmax=tmax, sfreq=sfreq, channels=names, unit=unit)
    if label is None:
        return trials
    if label not in trials.classes:
        raise InputError(f"no class '{label}' in '{data}': it has {', '.join(trials.classes[:20])}")
    return trials.select(trials.y == trials.classes.index(label))


def _print(response: EnvelopeResponse) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("channel", "follows at (Hz)", "largest coherence", "p", "peaks of the published ratio (Hz)"):
        table.add_column(name, overflow="fold")
    coherence, found, peaks = response.statistics["coherence"], response.found(), response.peaks()
    for row, name in enumerate(response.channels):
        best = int(coherence.value[row].argmax())
        table.add_row(
            name,
            _ranges(found[name]) or "nowhere",
            f"{coherence.value[row, best]:.3f} at {response.frequencies[best]:g} Hz",
            f"{coherence.p[row, best]:.3f}",
            _ranges(peaks[name]) or "none",
        )
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{response.segments:.0f} independent segments; a find anywhere by chance has p <= {response.alpha:g}. "
        "The published peaks are there by its rule, whatever chance makes."
    )


def _ranges(frequencies: list[float]) -> str:
    shown = ", ".join(f"{frequency:g}" for frequency in frequencies[:12])
    return shown + (f" and {len(frequencies) - 12} more" if len(frequencies) > 12 else "")
