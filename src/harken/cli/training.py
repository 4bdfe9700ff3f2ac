"""What the commands that train share: a line here and there, a bar with the loss, a check of the packages."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from harken.data.mixing import Recordings
    from harken.train.loop import LoopConfig, Recipe

Describe = Callable[[dict[str, float]], str]

# options that mean the same in every command that trains
LENGTH, RUN = "How long, how fast", "The run"
Steps = Annotated[int, typer.Option(min=1, help="Steps in all.", rich_help_panel=LENGTH)]
BatchSize = Annotated[int, typer.Option(min=1, help="Items a step and process.", rich_help_panel=LENGTH)]
LearningRate = Annotated[float, typer.Option("--lr", help="Highest learning rate.", rich_help_panel=LENGTH)]
Schedule = Annotated[
    str, typer.Option(help="Of the learning rate: cosine, exponential or constant.", rich_help_panel=LENGTH)
]
Ema = Annotated[
    float, typer.Option(min=0, max=1, help="Decay of the averaged weights that are kept.", rich_help_panel=LENGTH)
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out, exactly where it stopped.", rich_help_panel=RUN)
]
Init = Annotated[
    str | None,
    typer.Option(help="Start from trained weights: a folder, checkpoint or Hub repository.", rich_help_panel=RUN),
]
Seed = Annotated[int, typer.Option(min=0, help="Of weights and items.", rich_help_panel=RUN)]
ItemWorkers = Annotated[int, typer.Option("--workers", min=0, help="Processes that make items.", rich_help_panel=RUN)]
TrainDevice = Annotated[
    str, typer.Option("--device", help="auto takes a GPU where there is one; cpu does not.", rich_help_panel=RUN)
]
Precision = Annotated[str, typer.Option(help="no, bf16 or fp16.", rich_help_panel=RUN)]
ValidateEvery = Annotated[int, typer.Option(min=1, help="Steps between validations.", rich_help_panel=RUN)]
SaveEvery = Annotated[
    int, typer.Option(min=1, help="Steps from one save to the next: what a kill costs.", rich_help_panel=RUN)
]


def run_training(
    recipe: Recipe, loop: LoopConfig, out: Path, *, resume: bool, device: str, describe: Describe, use: str
) -> None:
    """Train with a bar and a word at the end; ``use`` is the command that takes the weights, ``{}`` in their place."""
    from harken.allocation import keep_freed_memory
    from harken.train.loop import train

    keep_freed_memory()
    talk = talker()
    with TrainingBar(loop.steps, talk, describe) as bar:
        try:
            best = train(
                recipe,
                loop,
                out,
                resume=resume,
                device=device,  # type: ignore[arg-type]  # checked by check_device
                on_step=bar.step,
                on_validation=bar.validation,
            )
        except KeyboardInterrupt:
            talk(f"stopped; the same command with --resume goes on from the last save in '{out}'")
            raise
    if best:
        talk(f"best: {describe(best)} at step {best['step']:.0f}")
        talk(f"use:  {use.format(out / 'best')}")


def check_device(device: str) -> None:
    """Raise where ``--device`` is not one of its words."""
    from harken.errors import InputError

    if device not in ("auto", "cpu"):
        raise InputError(f"--device takes auto or cpu, got '{device}'")


def check_folder(out: Path, *, resume: bool) -> None:
    """Raise where a new run would go over another one."""
    from harken.errors import InputError

    if not resume and (out / "state.pt").exists():
        raise InputError(f"'{out}' already holds a run: pass --resume to go on with it, or choose another --out")


def need(*packages: str, extra: str = "train") -> None:
    """Missing packages are named now, not after an hour."""
    from importlib.util import find_spec

    from harken.errors import MissingExtraError

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra=extra)


def talker() -> Callable[[str], None]:
    """Prints lines on stderr; in one of several processes, the first alone does."""
    from rich.console import Console

    console = Console(stderr=True, quiet=os.environ.get("RANK", "0") != "0", highlight=False, soft_wrap=True)
    return lambda text: console.print(text, markup=False)


def split_recordings(kind: str, folders: list[Path], held_out: list[Path] | None) -> tuple[list[Path], list[Path]]:
    """What to train on and what to judge on; with nothing to judge on, the last tenth of each folder's files."""
    from harken.data.mixing import audio_files
    from harken.errors import InputError

    if held_out:
        return folders, held_out
    train: list[Path] = []
    judge: list[Path] = []
    for folder in folders:
        paths = audio_files(folder)
        if not paths:
            raise InputError(f"no audio files in '{folder}'")
        kept = len(paths) - max(len(paths) // 10, 1 if len(paths) > 1 else 0)
        train += paths[:kept]
        judge += paths[kept:]
    if folders and not judge:
        raise InputError(f"one {kind} file cannot both train and judge: give more files, or --held-out-{kind} FOLDER")
    return train, judge


def amount(what: str, recordings: Recordings | None) -> str:
    """How much there is, in words."""
    if recordings is None:
        return f"no recorded {what}"
    return f"{recordings.seconds / 60:.1f} min of {what} in {len(recordings)} file{'s' * (len(recordings) > 1)}"


class TrainingBar:
    """Step, loss, last validation and time to go; without a terminal, a line for each validation."""

    def __init__(self, steps: int, talk: Callable[[str], None], describe: Describe):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._talk, self._describe = talk, describe
        self._shown = console.is_terminal and os.environ.get("RANK", "0") == "0"
        self._progress = Progress(
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[judged]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._shown,
        )
        self._task = self._progress.add_task("", total=steps, loss="", judged="")
        self._loss: float | None = None

    def __enter__(self) -> TrainingBar:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def step(self, step: int, losses: dict[str, float]) -> None:
        """Move on; the loss shown is an average over about fifty steps."""
        loss = losses["total"]
        self._loss = loss if self._loss is None or self._loss != self._loss else 0.98 * self._loss + 0.02 * loss
        self._progress.update(self._task, completed=step, loss=f"{self._loss:.3f}")

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Show the latest metrics."""
        if self._shown:
            self._progress.update(self._task, judged=self._describe(metrics))
        else:
            self._talk(f"step {step}: loss {self._loss:.3f}, {self._describe(metrics)}")
