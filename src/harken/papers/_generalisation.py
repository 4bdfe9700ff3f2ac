"""Enhancers trained alike on computed noise, judged there and among unseen voices and noises: MambAttention's claim."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from harken.data.audio import Audio, read, write
from harken.data.mixing import MixConfig, NoisySpeech, Recordings, audio_files
from harken.errors import InputError
from harken.models.enhance.mambattention import MambAttention, MambAttentionConfig
from harken.papers._record import Progress
from harken.papers._trials import Trials
from harken.score.enhancement import score_enhancement
from harken.train.enhancement import EnhancementRecipe
from harken.train.loop import LoopConfig, train

DATA_VARIABLE = "HARKEN_ENHANCE_DATA"
PAIRS_VARIABLE = "HARKEN_DATA"
SNRS = (-5.0, 0.0, 5.0, 10.0)  # of the judged mixtures, in turn
CORES = {
    "mamba": {"attention": None},
    "shared": {"attention": "softmax", "shared": True},
    "unshared": {"attention": "softmax", "shared": False},
}
METRICS = ("si_sdr", "estoi", "pesq_wb")

Pair = tuple[np.ndarray, np.ndarray]
Domain = dict[str, Trials]


class Sources(NamedTuple):
    """Speech to train on, recordings kept back from its corpora, and voices and noises that training never meets."""

    trained_on: Recordings
    kept_back: Recordings
    unseen_clean: Recordings
    unseen_noise: Recordings


class TwoDomains(EnhancementRecipe):
    """Learns from computed noise; validated on judged mixtures of several domains, metric by metric."""

    score_name = "si_sdr_seen"

    def __init__(self, model: Any, clean: Recordings, judged: dict[str, list[Pair]], mix: MixConfig, metrics: Any):
        super().__init__(model, clean, None, mix=mix, validation_items=0)
        self.judged, self.metrics = judged, metrics

    def validate(self, model: nn.Module) -> dict[str, float]:
        """``<metric>_<domain>``, averaged over its mixtures."""
        found: dict[str, float] = {}
        for domain, pairs in self.judged.items():
            made = [model.enhance(torch.from_numpy(noisy)[None])[0].numpy() for noisy, _ in pairs]  # type: ignore[operator]
            found |= self._means(domain, [(clean, one) for (_, clean), one in zip(pairs, made, strict=True)])
        return found

    def score_of_input(self) -> dict[str, float]:
        """The same of the mixtures as they are."""
        found: dict[str, float] = {}
        for domain, pairs in self.judged.items():
            found |= self._means(domain, [(clean, noisy) for noisy, clean in pairs])
        return found

    def _means(self, domain: str, pairs: Sequence[Pair]) -> dict[str, float]:
        rows = [score_enhancement(clean, made, self.mix.sample_rate, self.metrics) for clean, made in pairs]
        return {f"{name}_{domain}": float(np.nanmean([row[name] for row in rows])) for name in self.metrics}


def compare(
    seeds: Sequence[int], quick: bool, progress: Progress, *, steps: int, batch: int, lr: float
) -> dict[str, Domain]:
    """Scores in both domains, ``seen`` and ``unseen``, of ``noisy`` and of each of :data:`CORES`, seed by seed.

    Speech comes from the folder named by ``HARKEN_ENHANCE_DATA`` (``train/clean``, ``held_out/clean``), unseen noise
    from its ``held_out/noise``; where ``HARKEN_DATA`` names a folder with published pairs, their noise (noisy minus
    clean) joins it. A quick run makes its own signals.
    """
    config = replace(MambAttentionConfig.small(), channels=8 if quick else 16, blocks=1 if quick else 2)
    # one family: computed, coloured noise and nothing else; what widens it in training proper is off
    mix = MixConfig(
        seconds=0.25 if quick else 1.0, snr=(-5.0, 15.0), babble=0.0, synthetic=1.0, second_noise=0.0, band_limit=0.0,
        clip=0.0,
    )  # fmt: skip
    metrics = METRICS[:2] if quick else METRICS
    found: dict[str, Domain] = {
        domain: {name: Trials(name, {"noisy": [], **{core: [] for core in CORES}}) for name in metrics}
        for domain in ("seen", "unseen")
    }

    def keep(core: str, scores: dict[str, float]) -> None:
        for domain, trials in found.items():
            for name, trial in trials.items():
                trial.values[core].append(scores[f"{name}_{domain}"])

    with tempfile.TemporaryDirectory() as folder:
        sources = _sources(quick, Path(folder))
        items = 1 if quick else 24
        judged = {
            "seen": _mixtures(sources.kept_back, None, mix, items),
            "unseen": _mixtures(sources.unseen_clean, sources.unseen_noise, mix, items),
        }
        for number, (seed, core) in enumerate((seed, core) for seed in seeds for core in CORES):
            torch.manual_seed(seed)
            model = MambAttention(replace(config, **CORES[core]))  # type: ignore[arg-type]
            recipe = TwoDomains(model, sources.trained_on, judged, mix, metrics)
            loop = LoopConfig(
                steps=steps, batch_size=batch, lr=lr, warmup=20, validate_every=steps, save_every=steps,
                ema=0.0 if quick else 0.98, seed=seed,
            )  # fmt: skip

            def told(step: int, losses: dict[str, float], number: int = number, core: str = core) -> None:
                done = (number + step / steps) / (len(seeds) * len(CORES))
                progress(done, f"{core}: step {step}, loss {losses['total']:.3f}")

            keep(core, train(recipe, loop, Path(folder) / f"{core}-{seed}", device="cpu", on_step=told))
            if core == "mamba":
                keep("noisy", recipe.score_of_input())
    return found


def _mixtures(clean: Recordings, noise: Recordings | None, mix: MixConfig, items: int) -> list[Pair]:
    """Fixed mixtures of 2 s, of recorded noise as it is or, without any, of computed noise."""
    pairs = []
    for item in range(items):
        snr = SNRS[item % len(SNRS)]
        plain = replace(
            mix, seconds=2.0, snr=(snr, snr), synthetic=float(noise is None), tilt=0.0, speech_tilt=0.0,
            speed=(1.0, 1.0),
        )  # fmt: skip
        pairs.append(NoisySpeech(clean, noise, plain, length=items, seed=30_000)[item])
    return pairs


def _sources(quick: bool, folder: Path) -> Sources:
    if quick:
        return _made_up(folder)
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        raise InputError(
            f"this claim trains on recordings: set {DATA_VARIABLE} to a folder with train/clean, held_out/clean and "
            "held_out/noise (or try --quick, which means nothing)"
        )
    paths = audio_files(Path(root) / "train/clean")
    kept_back = paths[::8]
    trained_on = sorted(set(paths) - set(kept_back))
    if not trained_on:
        raise InputError(f"'{root}/train/clean' holds {len(paths)} recordings: give 2 or more, better hundreds")
    noises: list[Path] = [Path(root) / "held_out/noise"]
    if os.environ.get(PAIRS_VARIABLE):
        noises.append(_published_noises(Path(os.environ[PAIRS_VARIABLE]), folder))
    return Sources(
        Recordings(trained_on, 16000),
        Recordings(kept_back, 16000),
        Recordings([Path(root) / "held_out/clean"], 16000),
        Recordings(noises, 16000),
    )


def _published_noises(data: Path, folder: Path) -> Path:
    """Noisy minus clean of the published pairs under ``data``, as files of their own."""
    pairs = data / "pairs" if (data / "pairs").is_dir() else data
    clean = [(path, pairs / "voicebank_demand/noisy" / path.name) for path in pairs.glob("voicebank_demand/clean/*")]
    clean += [
        (path, path.with_name(path.name.replace("_clean", "_noisy"))) for path in pairs.glob("dns_challenge/*_clean.*")
    ]
    if not clean:
        raise InputError(f"no pairs in '{pairs}': unset {PAIRS_VARIABLE}, or point it at voicebank_demand/clean, noisy")
    made = folder / "published"
    made.mkdir()
    for path, noisy in sorted(clean):
        one, other = (read(p).mono().resample(16000).samples[:, 0] for p in (path, noisy))
        length = min(len(one), len(other))
        write(made / f"{path.stem}.wav", Audio((other[:length] - one[:length])[:, None], 16000))
    return made


def _made_up(folder: Path) -> Sources:
    """Voice-like tones and coloured noise, for the smoke test."""
    time = np.arange(3 * 16000) / 16000
    pitch = 120 * np.exp(0.2 * np.sin(2 * np.pi * 0.7 * time))
    voice = sum(np.sin(k * 2 * np.pi * np.cumsum(pitch) / 16000) / k for k in range(1, 20))
    voice = 0.1 * voice * (1 + np.sin(2 * np.pi * 3 * time))
    write(folder / "made_up.wav", Audio(voice.astype(np.float32)[:, None], 16000))
    made_up = Recordings([folder / "made_up.wav"], 16000)
    return Sources(made_up, made_up, made_up, made_up)
