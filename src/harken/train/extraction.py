"""Recipes of Look Once to Hear: the extractor of one talker, and the encoder that enrols them from a noisy clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from harken.data.mixing import Recordings
from harken.data.spatial_mixing import Heads, Scene, SceneMaker, SpatialConfig, Talkers
from harken.models._base import Model
from harken.models.separate.look_once import LookOnceToHear
from harken.models.separate.speaker_encoder import SpeakerEncoder
from harken.score.binaural import ild_error, itd_error
from harken.score.distortion import si_sdr
from harken.train.loop import Recipe

JUDGED_SECONDS = 4.0  # of a held-out mixture
_EMBEDDED_SECONDS = 3.2  # of an utterance
_LEARNT_AT_ONCE, _CLIPS_AT_ONCE = 25, 64  # talkers, utterances
_ENROLMENT_SEED = 7919  # added to the seed: an enrolment is another scene than the mixture


class Sources(NamedTuple):
    """What scenes are made of."""

    talkers: Talkers
    noise: Recordings | None
    heads: Heads | None

    def describe(self) -> list[Any]:
        """How much there is: what a run cannot be resumed without."""
        return [
            len(self.talkers),
            self.talkers.seconds,
            None if self.noise is None else [len(self.noise), self.noise.seconds],
            0 if self.heads is None else len(self.heads),
        ]


class Embeddings:
    """Embeddings of clean utterances by a trained encoder, computed many at once (an LSTM is slow on one)."""

    def __init__(self, teacher: SpeakerEncoder, talkers: Talkers):
        self.teacher, self.talkers = teacher.eval(), talkers
        self._known: dict[tuple[int, int, float], np.ndarray] = {}

    def of(self, talker: int, utterance: int, speed: float) -> np.ndarray:
        """Of an utterance at a speed: its first seconds."""
        if (talker, utterance, speed) not in self._known:
            self._learn(talker, speed)
        return self._known[talker, utterance, speed]

    def _learn(self, first: int, speed: float) -> None:
        """All utterances of this talker and of the next few, which will be asked for soon."""
        length = round(_EMBEDDED_SECONDS * self.talkers.sample_rate)
        chosen = [t % len(self.talkers) for t in range(first, first + min(_LEARNT_AT_ONCE, len(self.talkers)))]
        keys = [(talker, piece, speed) for talker in chosen for piece in range(self.talkers.pieces(talker))]
        keys = [key for key in keys if key not in self._known]
        clips = np.stack([np.resize(self.talkers.clip(*key), length) for key in keys])  # a short one is repeated
        with torch.inference_mode():
            parts = [self.teacher(part[:, None]) for part in torch.from_numpy(clips).split(_CLIPS_AT_ONCE)]
        self._known.update(zip(keys, torch.cat(parts).cpu().numpy(), strict=True))


class Mixtures(Dataset[Any]):
    """Triples ``(mixture, target, embedding)``; the embedding is of another utterance, clean."""

    def __init__(self, maker: SceneMaker, embeddings: Embeddings, items: int):
        self.maker, self.embeddings, self.items = maker, embeddings, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not 0 <= index < self.items:
            raise IndexError(index)
        scene = self.maker.scene(index)
        return scene.mixture, scene.target, self.embeddings.of(scene.talker, scene.example, scene.speed)


class Enrolments(Dataset[Any]):
    """Pairs ``(clip, embedding)``: somebody looked at, in noise, and the embedding of their clean utterance there."""

    def __init__(self, maker: SceneMaker, embeddings: Embeddings, items: int, clean: float):
        self.maker, self.quiet, self.embeddings, self.items = maker, maker.quiet(), embeddings, items
        self.clean = clean

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < self.items:
            raise IndexError(index)
        maker = self.quiet if np.random.default_rng((self.maker.seed, index)).random() < self.clean else self.maker
        scene = maker.scene(index, in_front=True)
        return scene.mixture, self.embeddings.of(scene.talker, scene.utterance, scene.speed)


class Made(NamedTuple):
    """What a step of the extractor made, and what it should have been."""

    target: Tensor
    estimate: Tensor


class ExtractionRecipe(Recipe):
    """The extractor on binaural mixtures, told by a clean embedding whom to keep.

    Args:
        model: new, or trained already.
        sources, held_out: what mixtures are made of, to train and to judge on: other talkers, noises and heads.
        teacher: makes the embeddings.
        mix: how mixtures are made.
        validation_items: how many held-out mixtures are scored.
    """

    score_name = "si_sdr_gain"
    higher_is_better = True

    def __init__(
        self,
        model: LookOnceToHear,
        sources: Sources,
        held_out: Sources,
        teacher: SpeakerEncoder,
        *,
        mix: SpatialConfig | None = None,
        validation_items: int = 24,
    ):
        self.model: Any = model
        self.sources = sources
        self.mix = mix or SpatialConfig(sample_rate=model.sample_rate)
        self.embeddings = Embeddings(teacher, sources.talkers)
        judged = held_out_maker(held_out, self.mix)
        self.judged = [judged.scene(i) for i in range(validation_items)]
        known = Embeddings(teacher, held_out.talkers)
        self.told = np.stack([known.of(s.talker, s.example, s.speed) for s in self.judged])

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Mixtures of the training sources."""
        return Mixtures(SceneMaker(*self.sources, self.mix, seed=seed), self.embeddings, items)

    def settings(self) -> dict[str, Any]:
        """Of model, sources and mixtures."""
        return {**super().settings(), "sources": self.sources.describe(), "mix": _plain(self.mix)}

    def generate(self, model: nn.Module, batch: Any, step: int) -> Made:
        """The wanted talkers of a batch."""
        mixture, target, embedding = batch
        return Made(target, model(mixture, embedding))

    def losses(self, made: Made, step: int) -> dict[str, Tensor]:
        """The negative signal-to-noise ratio, mean over ears: a wrong level or delay at an ear counts."""
        return {"total": -snr_db(made.target, made.estimate.float()).mean()}

    def validate(self, model: Model) -> dict[str, float]:
        """Of the held-out mixtures, with a clean embedding of another utterance: see :func:`score_scenes`."""
        return score_scenes(self.judged, extracted(model, self.judged, self.told), self.mix.sample_rate)

    def score_of(self, extract: Callable[[Scene], np.ndarray]) -> dict[str, float]:
        """The same of anything else that makes ``(2, samples)`` of a scene."""
        return score_scenes(self.judged, [extract(scene) for scene in self.judged], self.mix.sample_rate)


class EnrolmentRecipe(Recipe):
    """An encoder that hears a noisy binaural clip, and should say what the teacher says of the clean utterance.

    Args:
        model: a :class:`~harken.models.separate.speaker_encoder.SpeakerEncoder` or an
            :class:`~harken.models.separate.enrolment.EnrolmentNet`.
        sources, held_out, teacher, mix, validation_items: as for :class:`ExtractionRecipe`.
        clean: share of clips with nobody else and hardly any noise.
    """

    score_name = "cosine"
    higher_is_better = True

    def __init__(
        self,
        model: Model,
        sources: Sources,
        held_out: Sources,
        teacher: SpeakerEncoder,
        *,
        mix: SpatialConfig | None = None,
        clean: float = 0.2,
        validation_items: int = 48,
    ):
        self.model: Any = model
        self.sources, self.clean = sources, clean
        self.mix = mix or SpatialConfig(seconds=4.0)
        self.embeddings = Embeddings(teacher, sources.talkers)
        known = Embeddings(teacher, held_out.talkers)
        maker = held_out_maker(held_out, self.mix)
        self.judged = [maker.scene(_ENROLMENT_SEED + i, in_front=True) for i in range(validation_items)]
        # of another utterance than the one in the clip: nothing but the voice is shared
        self.wanted = np.stack([known.of(s.talker, s.example, s.speed) for s in self.judged])
        self.others = np.stack([known.of(s.others[0], 0, 1.0) if s.others else w * 0 for s, w in self._pairs()])

    def _pairs(self) -> zip[tuple[Scene, np.ndarray]]:
        return zip(self.judged, self.wanted, strict=True)

    def dataset(self, items: int, seed: int) -> Dataset[Any]:
        """Enrolments of the training sources."""
        maker = SceneMaker(*self.sources, self.mix, seed=seed + _ENROLMENT_SEED)
        return Enrolments(maker, self.embeddings, items, self.clean)

    def settings(self) -> dict[str, Any]:
        """Of model, sources and mixtures."""
        own = {"sources": self.sources.describe(), "mix": _plain(self.mix), "clean": self.clean}
        return {**super().settings(), **own}

    def generate(self, model: nn.Module, batch: Any, step: int) -> tuple[Tensor, Tensor]:
        """Embeddings of a batch, and what they should be."""
        clip, wanted = batch
        return model(clip), wanted

    def losses(self, made: tuple[Tensor, Tensor], step: int) -> dict[str, Tensor]:
        """One less the cosine."""
        return {"total": 1 - F.cosine_similarity(made[0].float(), made[1], dim=-1).mean()}

    def validate(self, model: Model) -> dict[str, float]:
        """Mean cosine to another, clean utterance of who was looked at; how often that to who else spoke is smaller."""
        clips = torch.from_numpy(np.stack([scene.mixture for scene in self.judged]))
        device = next(model.parameters()).device
        with torch.inference_mode():
            found = F.normalize(torch.cat([model(part.to(device)) for part in clips.split(4)]), dim=-1)
        made = found.cpu().double().numpy()
        right, wrong = (made * self.wanted).sum(-1), (made * self.others).sum(-1)
        return {"cosine": float(right.mean()), "told_apart": float((right > wrong).mean())}


def held_out_maker(sources: Sources, mix: SpatialConfig) -> SceneMaker:
    """Fixed mixtures to judge on: longer, voices as they were recorded, recorded noise, always with heads."""
    plain = replace(
        mix, seconds=max(JUDGED_SECONDS, mix.seconds), speeds=(1.0,), synthetic=0.0, headless=0.0, loudness=(0.0, 0.0)
    )
    return SceneMaker(*sources, plain, seed=20_000)


def extracted(model: Any, scenes: list[Scene], embeddings: np.ndarray) -> list[np.ndarray]:
    """What a model makes of scenes, each with its embedding."""
    device, made = next(model.parameters()).device, []
    for scene, embedding in zip(scenes, embeddings, strict=True):
        with torch.inference_mode():
            told = torch.from_numpy(embedding)[None].to(device)
            made.append(model(torch.from_numpy(scene.mixture)[None].to(device), told)[0].float().cpu().numpy())
    return made


def score_scenes(scenes: list[Scene], made: list[np.ndarray], rate: int) -> dict[str, float]:
    """Means over scenes: SI-SDR and its gain over the mixture at both ears (dB), errors of ILD (dB) and ITD (us)."""
    rows = []
    for scene, estimate in zip(scenes, made, strict=True):
        before, after = (_both_ears(scene.target, signal) for signal in (scene.mixture, estimate))
        rows.append(
            {
                "si_sdr": after,
                "si_sdr_gain": after - before,
                "ild_error": ild_error(scene.target, estimate),
                "itd_error": itd_error(scene.target, estimate, rate),
            }
        )
    return {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}


def snr_db(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-noise ratio of ``(..., samples)``, at most about 60 dB; finite, and so its gradient, for silence."""
    signal = reference.square().sum(-1)
    floor = 1e-6 * signal + 1e-8
    return 10 * torch.log10((signal + floor) / ((reference - estimate).square().sum(-1) + floor))


def _both_ears(reference: np.ndarray, estimate: np.ndarray) -> float:
    return float(si_sdr(torch.from_numpy(reference), torch.from_numpy(estimate)).mean())


def _plain(mix: SpatialConfig) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(mix).items()}
