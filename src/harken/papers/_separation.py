"""Separators trained alike on stems, judged on other songs: what the claims of Demucs compare."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harken.data.audio import Audio, write
from harken.data.stem_mixing import StemConfig, StemPool, Tracks
from harken.errors import InputError
from harken.layers.diffq import DiffQConfig
from harken.models.separate.demucs import Demucs, DemucsConfig
from harken.train.loop import LoopConfig, train
from harken.train.separation import SeparationRecipe

DATA_VARIABLE = "HARKEN_STEMS"
SOURCES = ("drums", "bass", "other")
RATE = 16000
SETTINGS = {
    "sources": list(SOURCES),
    "sample_rate": RATE,
    "channels": 1,
    "model": "Demucs, 16 channels, depth 4, one BLSTM layer, no resampling",
    "seconds": 1.5,
    "batch": 4,
    "learning_rate": 1e-3,
    "data": "the folder named by HARKEN_STEMS: songs rendered by benchmarks/recipes/demucs_music.py",
}
Told = Callable[[float, str], None]


@dataclass(frozen=True)
class Stems:
    """Songs to train on and other songs to judge by."""

    train: StemPool
    held_out: StemPool
    quick: bool

    @property
    def items(self) -> int:
        """How many held-out mixtures are scored."""
        return 2 if self.quick else 32


def load_stems(quick: bool) -> Stems:
    """Songs of the folder named by ``HARKEN_STEMS``, with ``train`` and ``held_out``; a quick run makes up noises.

    Raises:
        InputError: the variable is not set.
    """
    if quick:
        with tempfile.TemporaryDirectory() as folder:
            rng = np.random.default_rng(0)
            for source in SOURCES:
                samples = (0.1 * rng.standard_normal(RATE)).astype(np.float32)
                write(Path(folder) / f"{source}.wav", Audio(samples, RATE))
            made_up = Tracks([folder], SOURCES, RATE, 1)
        return Stems(made_up, made_up, quick)
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(
            f"this claim trains on stems: set {DATA_VARIABLE} to a folder with train and held_out, as "
            "benchmarks/recipes/demucs_music.py makes it (or try --quick, which means nothing)"
        )
    trained_on, judged_on = (Tracks([Path(root) / part], SOURCES, RATE, 1) for part in ("train", "held_out"))
    return Stems(trained_on, judged_on, quick)


def small_model(stems: Stems, seed: int, **changes: Any) -> Demucs:
    """The model that all claims train, or one that differs in what is given."""
    config = DemucsConfig(
        SOURCES, RATE, 1, channels=16, depth=4, lstm_layers=1, resample=False, segment_length=10 * RATE
    )
    if stems.quick:
        config = replace(config, channels=4, depth=2)
    torch.manual_seed(seed)
    return Demucs(replace(config, **changes))


def fit(
    model: Demucs, stems: Stems, steps: int, seed: int, told: Told, *, lr: float = 1e-3, **quantisation: Any
) -> dict[str, float]:
    """Train, and leave in the model the averaged weights that were judged; their held-out scores."""
    recipe = SeparationRecipe(
        model,
        stems.train,
        stems.held_out,
        mixing=StemConfig(round(1.5 * RATE) if not stems.quick else 800),
        validation_items=stems.items,
        validation_seconds=0.2 if stems.quick else 4.0,
        **quantisation,
    )
    loop = LoopConfig(
        steps=steps,
        batch_size=1 if stems.quick else 4,
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=0.0,
        warmup=min(50, steps // 4),
        ema=0.98,
        validate_every=steps,
        save_every=steps,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        scores = train(
            recipe, loop, folder, device="cpu", on_step=lambda step, losses: told(step / steps, f"step {step}")
        )
        averaged = Demucs.from_pretrained(Path(folder) / "last")
    if model.quantiser is None:
        model.load_state_dict(averaged.state_dict())
    return scores


def score(model: Demucs, stems: Stems, separate: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """Held-out SDR of anything that separates with the model's shapes."""
    recipe = SeparationRecipe(
        model,
        stems.train,
        stems.held_out,
        mixing=StemConfig(800),
        validation_items=stems.items,
        validation_seconds=0.2 if stems.quick else 4.0,
    )
    return recipe.score_of(separate)["sdr"]


QUANTISATION = DiffQConfig(min_size=0.001, speed=10.0)
