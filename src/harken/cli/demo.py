"""``harken demo``: clean a recording that ships with harken, and measure what that did."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

# score -> its title, decimals; higher is better in all of them
_SHOWN = {
    "pesq_wb": ("PESQ-WB (1.04 to 4.64)", 2),
    "stoi": ("STOI (0 to 1)", 3),
    "si_sdr": ("SI-SDR (dB)", 1),
    "csig": ("CSIG, voice (1 to 5)", 2),
    "cbak": ("CBAK, background (1 to 5)", 2),
    "covl": ("COVL, overall (1 to 5)", 2),
}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the WAV files and the picture.")] = Path(
        "harken-demo"
    ),
    model: Annotated[str, typer.Option(help="Which enhancer; 'harken models' lists them.")] = "mp-senet",
    weights: Annotated[
        str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
    ] = None,
) -> None:
    """Clean a real voice in real babble, and print the scores before and after.

    Example: harken demo -o harken-demo
    """
    from importlib.resources import as_file, files
    from importlib.util import find_spec

    from rich.console import Console

    from harken.data.audio import read, write
    from harken.errors import MissingExtraError, OutputError
    from harken.score.enhancement import score_enhancement
    from harken.tasks.enhance_files import enhance_files

    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder '{out}': {error.strerror}") from error
    noisy, clean, enhanced = (out / f"{name}.wav" for name in ("noisy", "clean", "enhanced"))
    with as_file(files("harken.data") / "samples") as samples:
        for path in (noisy, clean):
            write(path, read(samples / f"voice-in-babble-{path.stem}.flac"))
    plot = find_spec("matplotlib") is not None
    if not plot:
        console.print(f"no picture: {MissingExtraError('matplotlib', extra='plot')}", highlight=False, markup=False)
    report = enhance_files(noisy, enhanced, model=model, weights=weights, overwrite=True, plot=plot)
    file = report.files[0]
    console.print(f"{file.seconds:.1f} s of a voice in babble, enhanced in {file.elapsed:.1f} s\n")

    reference = read(clean)
    try:
        before, after = (
            score_enhancement(reference.samples[:, 0], read(path).samples[:, 0], reference.rate, _SHOWN)
            for path in (noisy, enhanced)
        )
        console.print(_table(before, after))
    except MissingExtraError as missing:
        console.print(f"no scores: {missing}", highlight=False, markup=False)
    console.print("\nlisten to, and look at:")
    for path in (noisy, enhanced, clean, *([Path(file.picture)] if file.picture else [])):
        console.print(f"  {path}", highlight=False, markup=False, soft_wrap=True)


def _table(before: dict[str, float], after: dict[str, float]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("score, higher is better")
    for name in ("noisy", "enhanced", "change"):
        table.add_column(name, justify="right")
    for name, (title, digits) in _SHOWN.items():
        old, new = before[name], after[name]
        shown = [f"{value:.{digits}f}" if math.isfinite(value) else "none" for value in (old, new)]
        change = new - old
        style = "" if not math.isfinite(change) else "green" if change > 0 else "red"
        table.add_row(title, *shown, f"[{style}]{change:+.{digits}f}[/]" if style else "")
    return table
