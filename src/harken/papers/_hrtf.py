"""HRTFformer trained on listeners of CIPIC beside the baselines that compute: what its claims compare."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from harken.data.hrtf import HRIRs, equiangular_grid, find_listeners, read_hrirs
from harken.errors import InputError
from harken.models.enhance.hrtfformer import HRTFformerConfig
from harken.papers._record import Progress
from harken.train.hrtf import HRTFItems, HRTFRecipe, HRTFWeights
from harken.train.loop import LoopConfig, train

DATA_VARIABLE = "HARKEN_HRTF_LISTENERS"
BESIDE = ("mean-harmonics", "kernel-ridge", "kriging")
METRICS = ("lsd", "ild_error", "dissimilarity")
POINTS = (5, 19, 27)
Scores = dict[str, list[dict[str, float]]]


def compare(
    neighbours: Mapping[str, float], seeds: Sequence[int], quick: bool, progress: Progress, *, steps: int, batch: int
) -> Scores:
    """Held-out scores, seed by seed, of a network for each weight of the neighbours' loss, and of the baselines.

    Listeners come from the folder named by ``HARKEN_HRTF_LISTENERS``, every fifth is held out; a quick run makes its
    own.

    Args:
        neighbours: name of the network -> weight.
        seeds: of weights, items and the choice of who is held out.
        quick: a smoke test.
        progress: of the claim.
        steps, batch: of each training.
    """
    everyone, config = _listeners(quick)
    scores: Scores = {name: [] for name in (*neighbours, *BESIDE)}
    with tempfile.TemporaryDirectory() as folder:
        for number, (seed, name) in enumerate((seed, name) for seed in seeds for name in neighbours):
            first = seed % 5
            held_out = everyone[first::5]
            recipe = HRTFRecipe(
                config,
                [one for index, one in enumerate(everyone) if index % 5 != first],
                held_out,
                items=HRTFItems(points=(3, 9), directions=20) if quick else HRTFItems(),
                weights=HRTFWeights(neighbours=neighbours[name]),
                seed=seed,
                judged_points=(5,) if quick else POINTS,
            )
            loop = LoopConfig(
                steps=steps,
                batch_size=batch,
                lr=3e-3,
                betas=(0.9, 0.999),
                warmup=min(50, steps),
                clip_norm=1.0,
                ema=0.99,
                validate_every=steps,
                save_every=steps,
                seed=seed,
            )

            def told(step: int, losses: dict[str, float], number: int = number, name: str = name) -> None:
                done = (number + step / steps) / (len(seeds) * len(neighbours))
                progress(done, f"{name}: step {step}, distortion {losses['sd']:.2f} dB")

            scores[name].append(train(recipe, loop, Path(folder) / f"{name}-{seed}", device="cpu", on_step=told))
            if name == next(iter(neighbours)):
                for baseline in BESIDE:
                    scores[baseline].append(recipe.score_of(baseline))
    return scores


def _listeners(quick: bool) -> tuple[list[HRIRs], HRTFformerConfig]:
    if quick:
        grid = equiangular_grid(45.0, lowest=-45.0)
        rng = np.random.default_rng(0)
        decay = np.exp(-np.arange(16) / 3)
        made = [
            HRIRs((rng.standard_normal((len(grid), 2, 16)) * decay).astype(np.float32), grid, 44100) for _ in range(10)
        ]
        small = HRTFformerConfig.small(len(grid))
        return made, replace(
            small, bins=8, n_fft=16, input_degree=2, degree=2, hidden=8, channel_cap=8, decoder_width=8
        )
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(
            f"this claim trains on measured listeners: set {DATA_VARIABLE} to a folder of SOFA files or of CIPIC's "
            "subjects, all on one grid (or try --quick, which means nothing)"
        )
    everyone = [read_hrirs(path) for path in find_listeners(root)]
    if len(everyone) < 10:
        raise InputError(f"'{root}' holds {len(everyone)} listeners: at least ten are needed")
    return everyone, HRTFformerConfig.small(len(everyone[0]))
