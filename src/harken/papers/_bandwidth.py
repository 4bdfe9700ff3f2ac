"""Extenders trained alike on narrow and wide speech, beside what computes alone: what AP-BWE's claim compares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from harken.data.audio import Audio, write
from harken.data.mixing import Recordings
from harken.data.narrowing import NarrowConfig
from harken.data.noises import shaped_noise
from harken.errors import InputError
from harken.models.enhance.ap_bwe import APBWE, APBWEConfig
from harken.papers._record import Progress
from harken.signal.band_replication import BandReplication
from harken.train.bandwidth import BandwidthRecipe
from harken.train.loop import LoopConfig, train

DATA_VARIABLE = "HARKEN_ENHANCE_DATA"
Scores = dict[str, list[dict[str, float]]]


class AmplitudeOnly(APBWE):
    """AP-BWE without its phase stream: the amplitude is predicted alone, the narrow recording's phase stays."""

    def _predict(
        self, log_amplitude: Float[Tensor, "batch bins frames"], phase: Float[Tensor, "batch bins frames"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        m = self.amplitude.enter(log_amplitude)
        for block in self.amplitude.blocks:
            m = block(m)
        return log_amplitude + self.to_amplitude(self.amplitude.norm_out(m)).mT, phase.cos(), phase.sin()


def compare(seeds: Sequence[int], quick: bool, progress: Progress, *, steps: int, batch: int, lr: float) -> Scores:
    """Held-out scores, seed by seed, of ``sinc``, ``copy_up``, ``amplitude_only`` and ``both_streams``, 8 to 16 kHz.

    Speech comes from the folder named by ``HARKEN_ENHANCE_DATA``, with ``train/clean`` and ``held_out/clean``; a quick
    run makes its own signals.
    """
    config = APBWEConfig.small()
    if quick:
        config = replace(config, channels=8, layers=1)
    narrow = NarrowConfig(seconds=0.2 if quick else 0.5)
    scores: Scores = {name: [] for name in ("sinc", "copy_up", "amplitude_only", "both_streams")}
    makers = {"amplitude_only": AmplitudeOnly, "both_streams": APBWE}
    with tempfile.TemporaryDirectory() as folder:
        trained_on, judged_on = _speech(quick, Path(folder))
        for number, (seed, name) in enumerate((seed, name) for seed in seeds for name in makers):
            torch.manual_seed(seed)  # the same initial weights, with and without the stream
            recipe = BandwidthRecipe(
                config,
                trained_on,
                judged_on,
                narrow=narrow,
                seed=seed,
                init=makers[name](config),
                validation_items=2 if quick else 32,
            )
            loop = LoopConfig(
                steps=steps, batch_size=batch, lr=lr, validate_every=steps, save_every=steps, ema=0.99, seed=seed
            )

            def told(step: int, losses: dict[str, float], number: int = number, name: str = name) -> None:
                done = (number + step / steps) / (len(seeds) * len(makers))
                progress(done, f"{name}: step {step}, loss {losses['total']:.1f}")

            where = Path(folder) / f"{name}-{seed}"
            scores[name].append(train(recipe, loop, where, device="cpu", on_step=told))
            if name == "both_streams":
                scores["sinc"].append(recipe.score_of_input())
                scores["copy_up"].append(recipe.score_of(BandReplication(16000, 8000).extend))
    return scores


def _speech(quick: bool, folder: Path) -> tuple[Recordings, Recordings]:
    if quick:
        rng = np.random.default_rng(0)
        write(folder / "made_up.wav", Audio(0.1 * shaped_noise(32000, 16000, rng), 16000))
        made_up = Recordings([folder / "made_up.wav"], 16000)
        return made_up, made_up
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(
            f"this claim trains on recordings: set {DATA_VARIABLE} to a folder with train/clean and held_out/clean, "
            "speech at 16 kHz or more (or try --quick, which means nothing)"
        )
    trained_on, judged_on = (Recordings([Path(root) / part / "clean"], 16000) for part in ("train", "held_out"))
    return trained_on, judged_on
