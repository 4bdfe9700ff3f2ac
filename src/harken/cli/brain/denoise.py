"""``harken brain denoise``: a recording without muscle noise and blinks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harken.cli.brain import options


def register(brain: typer.Typer) -> None:
    """Add the command."""
    brain.command("denoise", no_args_is_help=True)(denoise)


def denoise(
    recording: Annotated[Path, typer.Argument(help="EDF, BDF, GDF, FIF, BrainVision, EEGLAB, .npz or CSV.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .npz, .fif or .edf.")],
    weights: Annotated[str | None, typer.Option(help="Folder of weights.", show_default="those that ship")] = None,
    sfreq: options.Sfreq = None,
    channels: options.Channels = None,
    unit: options.Unit = "uV",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    plot: options.Plot = None,
    report: options.Report = None,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Take muscle noise and blinks out of a recording, channel by channel.

    An autoencoder cleans roughly; where it disagrees with the input a transformer does it again (AT-AT). Rate, length,
    names and events stay. The weights that ship were trained on synthetic artefacts: look at the picture before you
    trust them with yours.

    Example: harken brain denoise rest.edf -o rest_clean.fif --plot rest.png
    """
    from harken.figures import require_matplotlib
    from harken.tasks.denoise_eeg import denoise_eeg, draw_cleaned

    if plot is not None:
        require_matplotlib()
    with options.progress_bar(quiet) as progress:
        done = denoise_eeg(
            recording,
            out,
            weights=weights,
            sfreq=sfreq,
            channels=options.channel_names(channels),
            unit=unit,
            overwrite=overwrite,
            progress=progress,
        )
    if plot is not None:
        draw_cleaned(done, plot)

    def text() -> None:
        shares = ", ".join(
            f"{name} {share:.0%}" for name, share in zip(done.before.ch_names, done.removed, strict=True)
        )
        typer.echo(f"{out}: {len(done.before.ch_names)} channels, {done.before.seconds:.1f} s; taken away: {shares}")
        if done.flat:
            typer.echo(f"note: no signal in {', '.join(done.flat)}")

    options.tell(done.as_json(), report=report, as_json=as_json, text=text)
