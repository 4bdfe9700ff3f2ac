"""One talker kept of held-out binaural mixtures, told by different examples of their voice: what the claim compares."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from harken import models
from harken.data.audio import Audio, write
from harken.data.mixing import Recordings
from harken.data.noises import shaped_noise
from harken.data.spatial_mixing import Heads, Scene, SpatialConfig, Talkers
from harken.errors import InputError
from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
from harken.models.separate.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from harken.papers._record import Progress
from harken.train.extraction import Sources, extracted, held_out_maker, score_scenes

DATA_VARIABLE = "HARKEN_EXTRACT_DATA"
Scores = dict[str, list[dict[str, float]]]


def compare(seeds: Sequence[int], quick: bool, progress: Progress, *, scenes: int) -> Scores:
    """Held-out scores by way of telling who is wanted, one row a seed.

    ``clean`` (another utterance alone), ``noisy`` (looked at in another noisy mixture), ``someone_else`` (a talker who
    is not there), ``nobody`` (the mean over all talkers), and ``front`` without the network: the sum of both ears.

    Speech, noise and heads come from ``held_out/`` in the folder named by ``HARKEN_EXTRACT_DATA``; a quick run makes
    its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        sources = _made_up(Path(folder)) if quick else _held_out()
        extractor, encoder = _quick_models() if quick else _bundled()
        mix = SpatialConfig(seconds=0.2 if quick else 4.0)
        found: Scores = {}
        for number, seed in enumerate(seeds):
            maker = held_out_maker(sources, mix)
            if quick:
                maker.config = replace(maker.config, seconds=0.2)
            judged = [maker.scene(1000 * seed + i) for i in range(scenes)]
            looked_at = [
                maker.scene(1000 * seed + 500 + i, in_front=True, talker=scene.talker) for i, scene in enumerate(judged)
            ]
            told = _told(sources.talkers, judged, looked_at, encoder, seed)
            for turn, (name, embeddings) in enumerate(told.items()):
                progress((number + turn / len(told)) / len(seeds), f"{name}, seed {seed}")
                made = extracted(extractor, judged, embeddings)
                found.setdefault(name, []).append(score_scenes(judged, made, mix.sample_rate))
            front = [np.repeat(scene.mixture.mean(0, keepdims=True), 2, 0) for scene in judged]
            found.setdefault("front", []).append(score_scenes(judged, front, mix.sample_rate))
    return found


def _told(
    talkers: Talkers, judged: list[Scene], looked_at: list[Scene], encoder: Any, seed: int
) -> dict[str, np.ndarray]:
    def of(clip: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return F.normalize(encoder.embed(torch.from_numpy(np.atleast_2d(clip))[None]), dim=-1)[0].numpy()

    everyone = np.stack([of(talkers.clip(talker, 0)) for talker in range(len(talkers))])
    rng = np.random.default_rng(seed)
    absent = []
    for scene in judged:
        others = sorted(set(range(len(talkers))) - {scene.talker, *scene.others})
        absent.append(int(rng.choice(others)))
    mean = everyone.mean(0) / np.linalg.norm(everyone.mean(0))
    return {
        "clean": np.stack([of(talkers.clip(scene.talker, scene.example)) for scene in judged]),
        "noisy": np.stack([of(scene.mixture) for scene in looked_at]),
        "someone_else": everyone[absent],
        "nobody": np.repeat(mean[None], len(judged), 0),
    }


def _bundled() -> tuple[Any, Any]:
    return models.load("look-once-to-hear"), models.load("speaker-encoder")


def _quick_models() -> tuple[Any, Any]:
    torch.manual_seed(0)
    extractor = LookOnceToHear(
        LookOnceConfig(embedding_dim=8, channels=4, blocks=2, hidden=4, heads=1, stride=3, output="mask", memory=10)
    )
    encoder = SpeakerEncoder(SpeakerEncoderConfig(embedding_dim=8, hidden=8, layers=1, bands=12, partial=20, step=10))
    return extractor.eval(), encoder.eval()


def _held_out() -> Sources:
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(
            f"this claim needs recordings: set {DATA_VARIABLE} to a folder with held_out/speech (LibriSpeech's names), "
            "held_out/noise and held_out/heads (SOFA files or CIPIC's), or try --quick, which means nothing"
        )
    folder = Path(root) / "held_out"
    return Sources(
        Talkers([folder / "speech"], 16000),
        Recordings([folder / "noise"], 16000),
        Heads.read([folder / "heads"], 16000),
    )


def _made_up(folder: Path) -> Sources:
    rng = np.random.default_rng(0)
    for talker in range(4):
        for piece in range(2):
            sound = 0.1 * shaped_noise(8000, 16000, rng)
            write(folder / f"{talker}-0-{piece}.wav", Audio(sound, 16000))
    return Sources(Talkers([folder], 16000), None, None)


def time_chunks(step: Callable[[], object], chunks: int, clock: Callable[[], float]) -> np.ndarray:
    """Seconds that each of so many calls took, after a few that are not counted."""
    for _ in range(10):
        step()
    times = np.empty(chunks)
    for i in range(chunks):
        began = clock()
        step()
        times[i] = clock() - began
    return times
