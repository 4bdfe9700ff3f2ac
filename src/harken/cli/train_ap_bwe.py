"""``harken train ap-bwe``: weights of your own for ``harken extend``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from harken.cli.training import (
    RUN,
    BatchSize,
    Ema,
    Init,
    ItemWorkers,
    LearningRate,
    Precision,
    Resume,
    SaveEvery,
    Schedule,
    Seed,
    Steps,
    TrainDevice,
    ValidateEvery,
    amount,
    check_device,
    check_folder,
    need,
    run_training,
    split_recordings,
    talker,
)

_DATA, _MODEL = "Recordings", "Model and losses"


def ap_bwe(
    wide: Annotated[
        list[Path],
        typer.Option("--clean", help="Folder of speech that fills the band, searched in depth.", rich_help_panel=_DATA),
    ],
    held_out: Annotated[
        list[Path] | None,
        typer.Option(
            "--held-out-clean",
            help="Speech of other people, to judge on.",
            show_default="a tenth of the files",
            rich_help_panel=_DATA,
        ),
    ] = None,
    to: Annotated[int, typer.Option("--to", help="Hz of the result: 16000 or 48000.", rich_help_panel=_MODEL)] = 16000,
    source_rates: Annotated[
        list[int] | None,
        typer.Option(
            "--from",
            help="Hz of what comes in; repeat it for one model of several rates.",
            show_default="half of 16000, a third of 48000",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="small (quick on a CPU) or paper (29.8 M parameters).", rich_help_panel=_MODEL)
    ] = "small",
    adversary: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=1,
            help="Add discriminators, this wide relative to the paper's; 0.125 for a CPU.",
            show_default="none",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    adversary_from: Annotated[
        int, typer.Option(min=0, help="Step from which they take part.", rich_help_panel=_MODEL)
    ] = 0,
    filters: Annotated[
        str, typer.Option(help="drawn (a new low-pass for each item) or soxr.", rich_help_panel=_DATA)
    ] = "drawn",
    seconds: Annotated[float, typer.Option(help="Length of an item.", rich_help_panel=_DATA)] = 0.5,
    steps: Steps = 10_000,
    batch_size: BatchSize = 8,
    lr: LearningRate = 1e-3,
    schedule: Schedule = "cosine",
    ema: Ema = 0.999,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.", rich_help_panel=RUN)] = Path(
        "runs/ap-bwe"
    ),
    resume: Resume = False,
    init: Init = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    precision: Precision = "no",
    validate_every: ValidateEvery = 500,
    save_every: SaveEvery = 100,
) -> None:
    """Train AP-BWE to give speech the upper band that it lacks.

    Narrow recordings are made on the fly from your wide ones, by low-passes that are drawn anew each time. The best
    weights by log-spectral distance on recordings that were held out land in OUT/best, the latest in OUT/last, curves
    in OUT/curves. A run that was stopped or killed goes on with --resume.

    Example: harken train ap-bwe --clean speech --to 16000 --from 8000 --steps 3000
    """
    from harken.data.mixing import Recordings
    from harken.data.narrowing import NarrowConfig
    from harken.errors import InputError
    from harken.models import load
    from harken.models.enhance.ap_bwe import APBWE
    from harken.train.bandwidth import BandwidthRecipe
    from harken.train.loop import LoopConfig

    need("accelerate")
    check_device(device)
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        schedule=schedule,  # type: ignore[arg-type]  # checked by LoopConfig, like precision
        ema=ema,
        clip_norm=10.0,
        validate_every=validate_every,
        save_every=save_every,
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
        workers=workers,
    )
    check_folder(out, resume=resume)
    presets = {"small": APBWE.Config.small, "paper": APBWE.Config.paper}
    if preset not in presets:
        raise InputError(f"--preset takes {', '.join(presets)}, got '{preset}'")
    rates = tuple(source_rates or [8000 if to == 16000 else 16000])
    # of several rates the widest stands in the configuration: nothing is taken away from what comes in
    model = None if init is None else load("ap-bwe", init)
    lowest = min(rates) if len(rates) > 1 else None
    config = replace(presets[preset](to, max(rates)), lowest_source_rate=lowest) if model is None else model.config
    narrow = NarrowConfig(config.sample_rate, rates, seconds, filters)
    talk = talker()
    train_wide, judge_wide = split_recordings("clean", wide, held_out)
    recordings, judged = Recordings(train_wide, config.sample_rate), Recordings(judge_wide, config.sample_rate)
    talk(f"{amount('speech', recordings)}; held out: {amount('speech', judged)}")
    recipe = BandwidthRecipe(
        config,
        recordings,
        judged,
        narrow=narrow,
        adversary_width=adversary,
        adversary_from=adversary_from,
        seed=seed,
        init=model,
    )
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    talk(f"{count:,} parameters; {steps} steps of {batch_size} items into '{out}'")
    talk(f"to beat, by a sinc filter: {_metrics(recipe.score_of_input())}")
    run_training(
        recipe, loop, out, resume=resume, device=device, describe=_metrics, use="harken extend --weights {} narrow.wav"
    )


def _metrics(metrics: dict[str, float]) -> str:
    return f"LSD {metrics['lsd']:.2f}, of the missing band {metrics['lsd_high']:.2f}"
