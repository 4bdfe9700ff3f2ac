"""``harken train hrtfformer``: weights of your own for ``harken hrtf upsample``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harken.cli.training import (
    LENGTH,
    RUN,
    BatchSize,
    Ema,
    Init,
    ItemWorkers,
    Resume,
    SaveEvery,
    Seed,
    Steps,
    TrainDevice,
    ValidateEvery,
    check_device,
    check_folder,
    need,
    run_training,
    talker,
)

_DATA, _MODEL = "Listeners", "Model and losses"


def hrtfformer(
    listeners: Annotated[
        list[Path],
        typer.Option(
            help="Folder of SOFA files, or of CIPIC's subject folders, all measured on one grid; may be repeated.",
            rich_help_panel=_DATA,
        ),
    ],
    held_out: Annotated[
        list[Path] | None,
        typer.Option(help="Listeners to judge on.", show_default="every fifth", rich_help_panel=_DATA),
    ] = None,
    held_out_every: Annotated[
        int, typer.Option(min=2, help="Without --held-out: judge on every so many.", rich_help_panel=_DATA)
    ] = 5,
    preset: Annotated[
        str, typer.Option(help="small (for a CPU, on top of kriging) or paper.", rich_help_panel=_MODEL)
    ] = "small",
    norm: Annotated[
        str | None,
        typer.Option(
            help="Of the transformer: token-scale, rms, layer or batch.",
            show_default="the preset's",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    conv_norm: Annotated[
        str | None,
        typer.Option(
            help="After convolutions: batch, or layer for small batches.",
            show_default="batch",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    points: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="FEWEST MOST",
            help="Measured directions of an item; one number twice for always the same ones.",
            show_default="3 100; paper: 19 19",
            rich_help_panel=_DATA,
        ),
    ] = None,
    stretch: Annotated[
        float,
        typer.Option(help="Stretch frequency by up to this factor: heads differ in size.", rich_help_panel=_DATA),
    ] = 1.08,
    mix: Annotated[
        float, typer.Option(help="Share of items that are between two listeners.", rich_help_panel=_DATA)
    ] = 0.5,
    neighbours: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Weight of the neighbour-dissimilarity loss.",
            show_default="0.1; paper: 1",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    steps: Steps = 3000,
    batch_size: BatchSize = 8,
    lr: Annotated[
        float | None,
        typer.Option(help="Highest learning rate.", show_default="3e-3; paper: 5e-4", rich_help_panel=LENGTH),
    ] = None,
    ema: Ema = 0.995,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the run.", show_default=True, rich_help_panel=RUN)
    ] = Path("runs/hrtfformer"),
    resume: Resume = False,
    init: Init = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    validate_every: ValidateEvery = 200,
    save_every: SaveEvery = 100,
) -> None:
    """Train HRTFformer to tell a listener's HRTF in all directions from a few.

    Items are made on the fly: a listener of yours, perhaps in a mirror, stretched along frequency, or mixed with
    another; a few directions of it, other ones each time. The best weights by log-spectral distance on listeners that
    were held out (from 5, 19 and 27 directions) land in OUT/best, the latest in OUT/last, curves in OUT/curves.

    Example: harken train hrtfformer --listeners cipic/standard_hrir_database --steps 2000
    """
    from dataclasses import replace

    from harken.data.hrtf import find_listeners, read_hrirs
    from harken.errors import InputError
    from harken.models import load
    from harken.models.enhance.hrtfformer import HRTFformer
    from harken.train.hrtf import HRTFItems, HRTFRecipe, HRTFWeights, one_grid
    from harken.train.loop import LoopConfig

    need("accelerate")
    check_device(device)
    if preset not in ("small", "paper"):
        raise InputError(f"--preset takes small or paper, got '{preset}'")
    is_paper = preset == "paper"
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr or (5e-4 if is_paper else 3e-3),
        betas=(0.9, 0.999),
        schedule="constant" if is_paper else "cosine",
        warmup=0 if is_paper else 50,
        clip_norm=0.0 if is_paper else 1.0,
        weight_decay=0.0 if is_paper else 0.01,
        ema=ema,
        validate_every=validate_every,
        save_every=save_every,
        seed=seed,
        workers=workers,
    )
    check_folder(out, resume=resume)
    found = [path for folder in listeners for path in find_listeners(folder)]
    judged = [path for folder in held_out or [] for path in find_listeners(folder)] or found[
        held_out_every - 1 :: held_out_every
    ]
    trained = [path for path in found if path not in judged]
    if not trained or not judged:
        raise InputError(f"{len(found)} listeners cannot both train and judge: give more, or --held-out FOLDER")
    talk = talker()
    sets = [[read_hrirs(path) for path in paths] for paths in (trained, judged)]
    directions = len(one_grid(sets[0]))
    talk(f"{len(trained)} listeners in {directions} directions; held out: {len(judged)}")
    model = None if init is None else load("hrtfformer", init)
    config = HRTFformer.Config.paper() if is_paper else HRTFformer.Config.small(directions)
    chosen = {name: value for name, value in (("norm", norm), ("conv_norm", conv_norm)) if value is not None}
    config = replace(config, **chosen)  # type: ignore[arg-type]  # checked as the model is built
    items = HRTFItems(
        points or ((19, 19) if is_paper else (3, 100)),
        stretch=1.0 if is_paper else stretch,
        mix=0.0 if is_paper else mix,
    )
    weights = HRTFWeights(neighbours=neighbours if neighbours is not None else 1.0 if is_paper else 0.1)
    recipe = HRTFRecipe(
        config if model is None else model.config, *sets, items=items, weights=weights, seed=seed, init=model
    )
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    talk(f"{count:,} parameters; {steps} steps of {batch_size} items into '{out}'")
    for baseline in ("mean-harmonics", "kernel-ridge", "kriging"):
        talk(f"to beat, {baseline}: {_metrics(recipe.score_of(baseline))}")
    run_training(
        recipe,
        loop,
        out,
        resume=resume,
        device=device,
        describe=_metrics,
        use="harken hrtf upsample --weights {} few.sofa -o all.sofa",
    )


def _metrics(metrics: dict[str, float]) -> str:
    each = ", ".join(f"{metrics[name]:.2f} from {name[4:]}" for name in metrics if name.startswith("lsd_"))
    return f"LSD {metrics['lsd']:.3f} dB ({each}), ILD {metrics['ild_error']:.2f} dB"
