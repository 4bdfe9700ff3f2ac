"""``harken hrtf``: a listener's head-related transfer functions upsampled, scored, drawn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harken.cli.recordings import check_report, finish

if TYPE_CHECKING:
    from harken.tasks.upsample_hrtf_files import UpsampledFile


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    hrtf = typer.Typer(no_args_is_help=True, help="Head-related transfer functions: upsample, score, draw.")
    hrtf.command("upsample", no_args_is_help=True)(upsample)
    hrtf.command("score", no_args_is_help=True)(score)
    hrtf.command("plot", no_args_is_help=True)(plot)
    app.add_typer(hrtf, name="hrtf")


def upsample(
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="SOFA files, or folders of them.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="A file for one input, a folder for several.",
            show_default="beside each input, as *.upsampled.sofa",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="hrtfformer; or, without a network, nearest, harmonics, harmonics-ridge; with a mean of other "
            "listeners, training-mean, mean-harmonics, kriging; with --training, best-match, kernel-ridge too."
        ),
    ] = "hrtfformer",
    weights: Annotated[
        str | None, typer.Option(help="A folder, checkpoint or Hub repository.", show_default="those that ship")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Folder of other listeners, on one grid, for the methods that need them.")
    ] = None,
    grid: Annotated[
        str,
        typer.Option(help="Where to: model, a SOFA file with these directions, a step in degrees, or 0:0,90:0,..."),
    ] = "model",
    points: Annotated[
        int | None, typer.Option(min=1, help="Take only so many directions of the input, far apart.")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option(help="The same listener in many directions, to compare with; same: the input, with --points."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="An output may replace its input.")] = False,
    plot: Annotated[bool, typer.Option("--plot", help="Draw a picture beside each output.")] = False,
    report: Annotated[
        str | None,
        typer.Option("--report", "--json", metavar="json|FILE.json", help="Report as JSON, on stdout or in a file."),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Impulse responses of a listener in every direction, from those in a few.

    Inputs are SOFA files (SimpleFreeFieldHRIR) of any rate and any directions, three or more for a useful answer. The
    output has the input's rate, level and number of taps; magnitudes come from the method, phases are minimum, times
    between the ears from a sphere that fits the measured ones, mended by harmonics where there are nine or more.

    Example: harken hrtf upsample few.sofa -o all.sofa --plot
    """
    from harken.tasks.upsample_hrtf_files import upsample_hrtf_files

    console = check_report(report, inputs, out)
    result = upsample_hrtf_files(
        inputs,
        out,
        method=method,
        weights=weights,
        grid=grid,
        points=points,
        training=training,
        truth=truth,
        plot=plot,
        overwrite=overwrite,
        progress=None if quiet else _Told(len(inputs)).tell,
    )
    columns = ["from", "to", "head", *(["LSD", "ILD error", "ITD error"] if truth else [])]
    finish(result, console, columns=columns, row=_row, report=report, quiet=quiet)


class _Told:
    """A line for each listener of several, on a terminal."""

    def __init__(self, count: int):
        from rich.console import Console

        self._console, self._count = Console(stderr=True, highlight=False), count

    def tell(self, name: str, done: float, total: float) -> None:
        """Name the listener that is being worked on."""
        if done == 0 and self._console.is_terminal:
            self._console.print(f"{Path(name).name} ...", end="\r")


def _row(file: UpsampledFile) -> list[str]:
    cells = [str(file.measured), str(file.directions), f"{file.head_radius_cm or 0:.1f} cm"]
    if file.scores:
        scores = file.scores
        cells += [f"{scores['lsd_db']:.2f} dB", f"{scores['ild_error_db']:.2f} dB", f"{scores['itd_error_us']:.0f} µs"]
    return cells


def score(
    estimate: Annotated[Path, typer.Argument(metavar="EST", help="A SOFA file that was made.")],
    reference: Annotated[Path, typer.Argument(metavar="REF", help="The same listener, measured.")],
    json_target: Annotated[
        str | None, typer.Option("--json", metavar="FILE", help="Write the scores as JSON; - is standard output.")
    ] = None,
) -> None:
    """Compare two sets of responses in the directions that both have.

    \b
    lsd_db                       log-spectral distance, 172 Hz to 18 kHz, both ears
    ild_error_db                 level between the ears, mean over frequency
    itd_error_us                 time between the ears, by onset below 3 kHz
    neighbour_dissimilarity_db2  roughness from direction to direction

    Example: harken hrtf score all.sofa measured.sofa
    """
    import json

    from harken.data.audio import check_target
    from harken.tasks.upsample_hrtf import score_hrtfs
    from harken.whole_files import write_text

    if json_target not in (None, "-"):
        check_target(str(json_target))
    scores = score_hrtfs(estimate, reference)
    text = json.dumps(scores, indent=1)
    if json_target == "-":
        typer.echo(text)
        return
    if json_target is not None:
        write_text(Path(json_target), text + "\n")
    for name, value in scores.items():
        typer.echo(f"{name:28} {value:g}")


def plot(
    source: Annotated[Path, typer.Argument(metavar="SOFA", help="A set of responses.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The picture.")],
    truth: Annotated[Path | None, typer.Option(help="Another set, to be drawn beside it.")] = None,
) -> None:
    """Draw levels and times between the ears over all directions.

    Example: harken hrtf plot all.sofa -o all.png
    """
    from harken.data.audio import check_target
    from harken.data.hrtf import read_hrirs
    from harken.tasks.sphere_pictures import draw_spheres

    check_target(str(out))
    names = [source] if truth is None else [source, truth]
    draw_spheres({name.stem: read_hrirs(name) for name in names}, out)
    typer.echo(f"picture: {out}")
