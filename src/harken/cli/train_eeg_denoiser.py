"""``harken train eeg-denoiser``: weights of your own for ``harken brain denoise``."""

from __future__ import annotations

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

_DATA, _MODEL = "Recordings", "Model and losses"


def eeg_denoiser(
    clean: Annotated[
        list[Path],
        typer.Option(help="File of clean trials or a clean recording; may be repeated.", rich_help_panel=_DATA),
    ],
    held_out: Annotated[
        list[Path], typer.Option(help="Clean files of other people, to judge on.", rich_help_panel=_DATA)
    ],
    sfreq: Annotated[
        float | None, typer.Option(help="Rate of files that do not say, hertz.", rich_help_panel=_DATA)
    ] = None,
    noise: Annotated[str, typer.Option(help="muscle, blink or both.", rich_help_panel=_DATA)] = "muscle",
    snr: Annotated[
        tuple[float, float],
        typer.Option(metavar="LOWEST HIGHEST", help="Of the ratio that is drawn, dB.", rich_help_panel=_DATA),
    ] = (-7.0, 2.0),
    decibels: Annotated[
        str,
        typer.Option(help="rms10 (as in EEGdenoiseNet: 2 dB are 4 dB of power) or power.", rich_help_panel=_DATA),
    ] = "rms10",
    attention: Annotated[str, typer.Option(help="Any bidirectional mechanism.", rich_help_panel=_MODEL)] = "softmax",
    autoencoder_steps: Annotated[
        int, typer.Option(min=0, help="In which the autoencoder learns alone.", rich_help_panel=_MODEL)
    ] = 300,
    adversarial: Annotated[float, typer.Option(min=0, help="Weight of the critic.", rich_help_panel=_MODEL)] = 0.01,
    steps: Steps = 3000,
    batch_size: BatchSize = 32,
    lr: LearningRate = 1e-3,
    ema: Ema = 0.995,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.", rich_help_panel=RUN)] = Path(
        "runs/eeg-denoiser"
    ),
    resume: Resume = False,
    init: Init = None,
    seed: Seed = 0,
    workers: ItemWorkers = 0,
    device: TrainDevice = "auto",
    validate_every: ValidateEvery = 300,
    save_every: SaveEvery = 100,
) -> None:
    """Train AT-AT to free EEG of muscle noise or blinks.

    Clean epochs of 2 s at 256 Hz are made dirty on the fly by synthetic artefacts. The best weights by correlation on
    other people's epochs land in OUT/best, the latest in OUT/last, curves in OUT/curves.

    Example: harken train eeg-denoiser --clean SelfRegulationSCP1.npz --held-out SelfRegulationSCP2.npz
    """
    import numpy as np

    from harken.data.brain_files import read_signals
    from harken.data.eeg_noise import NoiseConfig, clean_epochs
    from harken.models import load
    from harken.models.brain.denoiser import DenoiserConfig
    from harken.train.eeg_denoiser import DenoiserRecipe
    from harken.train.loop import LoopConfig

    need("accelerate")
    check_device(device)
    model = None if init is None else load("eeg-denoiser", init)
    config = DenoiserConfig(attention=attention) if model is None else model.config
    kinds = NoiseConfig(noise, *snr, snr=decibels, sfreq=config.sfreq)  # type: ignore[arg-type]  # checked inside
    loop = LoopConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        betas=(0.9, 0.999),
        warmup=50,
        clip_norm=1.0,
        ema=ema,
        validate_every=validate_every,
        save_every=save_every,
        seed=seed,
        workers=workers,
    )
    check_folder(out, resume=resume)
    sets = [
        np.concatenate([clean_epochs(read_signals(path, config.sfreq, sfreq), config.samples) for path in paths])
        for paths in (clean, held_out)
    ]
    talk = talker()
    talk(f"{len(sets[0])} clean epochs of {config.samples / config.sfreq:g} s; held out: {len(sets[1])}")
    recipe = DenoiserRecipe(
        config, *sets, noise=kinds, autoencoder_steps=autoencoder_steps, adversarial=adversarial, seed=seed, init=model
    )
    count = sum(parameter.numel() for parameter in recipe.model.parameters())
    talk(f"{count:,} parameters; {steps} steps of {batch_size} epochs into '{out}'")
    talk(f"to beat, the dirty epochs: {_metrics(recipe.score_of(lambda dirty: dirty))}")
    run_training(
        recipe,
        loop,
        out,
        resume=resume,
        device=device,
        describe=_metrics,
        use="harken brain denoise --weights {} dirty.edf -o clean.npz",
    )


def _metrics(metrics: dict[str, float]) -> str:
    ends = ", ".join(f"{v:.3f} at {n.removeprefix('correlation_at_')}" for n, v in metrics.items() if "_at_" in n)
    return f"correlation {metrics['correlation']:.4f} ({ends}), relative error {metrics['rrmse']:.3f}"
