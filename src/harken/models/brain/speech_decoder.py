"""Which stretch of speech was heard? The brain module as a scikit-learn estimator (arXiv 2208.12266)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.data.brain import as_array, check_trials
from harken.errors import InputError
from harken.models._base import build
from harken.models.brain._estimator import Progress, SavedEstimator
from harken.models.brain._fitting import Budget, fit_module
from harken.models.brain.segment_retrieval import (
    clip_loss,
    clip_scores,
    segment_codes,
    squared_distance_scores,
    top_k,
)
from harken.models.brain.sensor_layout import sensor_layout
from harken.models.brain.speech_decoding import (
    DilatedBlocks,
    FeatureHead,
    MergedSpeechDecoding,
    SpeechDecoding,
    SpeechDecodingConfig,
)
from harken.signal.speech_features import frames_at, log_mel

Loss = Literal["clip", "regression"]
Target = Literal["features", "deep-mel"]
_HOP = 160
_LATENT = 64  # rows of what the trained speech encoder makes of mel bands, at most


class BrainSpeechDecoder(SavedEstimator):
    """Match M/EEG with the speech that was heard, contrastively, and find it among candidates.

    ``fit(X, y, subject=...)`` takes trials ``(trials, channels, samples)`` in volts and, for each, what was heard:
    speech features ``(trials, features, samples)`` at the same rate, or audio ``(trials, audio samples)``, which
    becomes log-mel bands. Every subject of the training has a matrix of its own; all else is shared.

    Preprocessing is the paper's, with what it learns taken from training trials alone: the mean of the first
    ``baseline`` seconds is subtracted from each channel; each subject's channels are scaled by median and quartiles,
    then clamped at ``clamp``; the brain lags behind by ``delay``, so that it loses as much at its beginning as speech
    does at its end.

    Args:
        sfreq: samples a second of trials and features.
        audio_rate: of audio given as ``y``.
        bands: mel bands that audio becomes.
        baseline, delay: seconds; clamp: quartile ranges.
        loss: ``"clip"``, or ``"regression"`` to the features (mean squared error): the paper's baseline.
        target: match ``"features"`` themselves, or what a second network, trained along, makes of them
            (``"deep-mel"``).
        scaling: features normalised by row, or by one ``"global"`` mean and deviation, as the paper does for wav2vec.
        virtual_sensors, position_dim, hidden, layers, kernel_size, ban_radius: of :class:`SpeechDecoding`.
        top_k: what :meth:`score` counts as right.
        epochs, batch_size, lr, weight_decay, patience, seed, device, progress: of the training (Adam).
        validation: share of the distinct stretches of speech that decide when to stop.

    Attributes:
        module_: :class:`SpeechDecoding`. history_: losses, epoch by epoch.
        subjects_: labels of the subjects. layout_: places of the sensors in the unit square.
        heard_: codes of the stretches of speech that it was fitted on.

    >>> rng = np.random.default_rng(0)
    >>> speech = rng.standard_normal((12, 3, 40)).astype(np.float32)
    >>> decoder = BrainSpeechDecoder(sfreq=20.0, hidden=8, layers=2, epochs=1, top_k=2)
    >>> decoder.fit(np.tile(speech, (1, 2, 1)), speech).predict(np.tile(speech[:5], (1, 2, 1)), speech).shape
    (5,)
    """

    def __init__(
        self,
        *,
        sfreq: float = 120.0,
        audio_rate: int = 16000,
        bands: int = 40,
        baseline: float = 0.5,
        delay: float = 0.15,
        clamp: float = 20.0,
        loss: Loss = "clip",
        target: Target = "features",
        scaling: Literal["rows", "global"] = "rows",
        virtual_sensors: int = 32,
        position_dim: int = 128,
        hidden: int = 48,
        layers: int = 6,
        kernel_size: int = 3,
        ban_radius: float = 0.2,
        top_k: int = 10,
        epochs: int = 100,
        batch_size: int = 64,
        lr: float = 3e-4,
        weight_decay: float = 0.0,
        patience: int | None = 10,
        validation: float = 0.1,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.sfreq = sfreq
        self.audio_rate = audio_rate
        self.bands = bands
        self.baseline = baseline
        self.delay = delay
        self.clamp = clamp
        self.loss = loss
        self.target = target
        self.scaling = scaling
        self.virtual_sensors = virtual_sensors
        self.position_dim = position_dim
        self.hidden = hidden
        self.layers = layers
        self.kernel_size = kernel_size
        self.ban_radius = ban_radius
        self.top_k = top_k
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.patience = patience
        self.validation = validation
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any, subject: Any = None, positions: Any = None) -> Self:
        """Train on trials and what was heard in them.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``.
            y: features ``(trials, features, samples)`` or audio ``(trials, audio samples)``.
            subject: a label a trial; one person when None.
            positions: of the sensors, ``(channels, 2)`` in the unit square or ``(channels, 3)`` in metres; from the
                channel names of epochs when None.

        Raises:
            InputError: unusable trials or speech, or numbers that do not fit one another.
        """
        self._check_parameters()
        x, _, names = as_array(X)
        check_trials(x)
        speech = self._speech(y, x)
        self.channels_, self.samples_, self.features_ = x.shape[1], x.shape[2], speech.shape[1]
        labels = np.zeros(len(x), np.int64) if subject is None else _labels(subject, len(x))
        self.subjects_, person = np.unique(labels, return_inverse=True)
        places = getattr(X, "positions", None) if positions is None else positions
        self.layout_ = sensor_layout(self.channels_, places, names).astype(np.float32)
        self._learn_scales(x, speech, person)
        codes = segment_codes(speech)
        self.heard_ = np.unique(codes)
        train, held_out = self._held_out(codes)
        tensors = [
            torch.from_numpy(np.ascontiguousarray(part))
            for part in (self._brain(x, person), person.astype(np.int64), self._target(speech), codes)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            matcher = self._build()
        matcher.layout.copy_(torch.from_numpy(self.layout_))
        matcher.to(self._device())
        self.history_ = fit_module(
            matcher,
            self._loss,
            [part[train] for part in tensors],
            [part[held_out] for part in tensors] if len(held_out) else None,
            Budget(self.epochs, self.batch_size, self.lr, self.weight_decay, self.patience),
            seed=self.seed,
            on_epoch=self._on_epoch,
        )
        self._keep(matcher)
        return self

    def decode(self, X: Any, subject: Any = None) -> Float[np.ndarray, "trials features samples"]:
        """What the brain module makes of trials, in the space that candidates are compared in."""
        x, person = self._checked(X, subject)
        brain, device = torch.from_numpy(self._brain(x, person)), self._device()
        who = torch.from_numpy(person)
        parts = zip(brain.split(256), who.split(256), strict=True)
        return torch.cat([self._merged(part.to(device), one.to(device)).cpu() for part, one in parts]).numpy()

    def similarity(
        self, X: Any, candidates: Any, subject: Any = None, *, by: Literal["clip", "distance"] | None = None
    ) -> Float[np.ndarray, "trials candidates"]:
        """How well each candidate fits each trial, higher is better: all of them by one matrix product.

        Args:
            X: trials.
            candidates: features or audio, as in :meth:`fit`, of any number of stretches of speech.
            subject: who listened, a label a trial.
            by: the CLIP score or minus the squared distance; what the loss makes natural when None.
        """
        decoded = torch.from_numpy(self.decode(X, subject))
        targets = self._candidates(candidates)
        chosen = by or ("clip" if self.loss == "clip" else "distance")
        compare = clip_scores if chosen == "clip" else squared_distance_scores
        return compare(decoded, targets).numpy()

    def predict_proba(self, X: Any, candidates: Any, subject: Any = None) -> Float[np.ndarray, "trials candidates"]:
        """Softmax of :meth:`similarity` over the candidates."""
        return torch.from_numpy(self.similarity(X, candidates, subject)).double().softmax(-1).numpy()

    def predict(self, X: Any, candidates: Any, subject: Any = None) -> Int[np.ndarray, " trials"]:
        """The number of the candidate that fits best."""
        return self.similarity(X, candidates, subject).argmax(1)

    def rank(self, X: Any, candidates: Any, subject: Any = None) -> Int[np.ndarray, "trials candidates"]:
        """Numbers of the candidates, the one that fits best first."""
        return (-self.similarity(X, candidates, subject)).argsort(1, kind="stable")

    def score(self, X: Any, y: Any, subject: Any = None) -> float:
        """Share of trials whose own speech is among the ``top_k`` best of all distinct stretches in ``y``.

        Raises:
            InputError: there are no more distinct stretches than ``top_k``.
        """
        scores, own = self.retrieve(X, y, subject)
        return top_k(scores, own, self.top_k)

    def retrieve(
        self, X: Any, y: Any, subject: Any = None, *, by: Literal["clip", "distance"] | None = None
    ) -> tuple[Float[np.ndarray, "trials candidates"], Int[np.ndarray, " trials"]]:
        """Similarities with every distinct stretch of speech in ``y``, and the column that is right for each trial."""
        self._check_fitted()
        speech = self._speech(y, as_array(X)[0])
        _, first, own = np.unique(segment_codes(speech), return_index=True, return_inverse=True)
        return self.similarity(X, speech[first], subject, by=by), own

    def _check_parameters(self) -> None:
        for name, kinds in (("loss", Loss), ("target", Target)):
            if getattr(self, name) not in get_args(kinds):
                raise InputError(f"expected {name} of {' or '.join(get_args(kinds))}, got {getattr(self, name)!r}")
        if self.scaling not in ("rows", "global"):
            raise InputError(f"expected scaling of rows or global, got {self.scaling!r}")
        if self.loss == "regression" and self.target == "deep-mel":
            raise InputError("regression to features that are learned along would make both zero: take loss='clip'")
        if not self.sfreq > 0 or min(self.baseline, self.delay) < 0 or not self.clamp > 0:
            raise InputError("expected sfreq and clamp above 0, and baseline and delay of at least 0 seconds")
        if not 0 <= self.validation < 1:
            raise InputError(f"expected a validation share in [0, 1), got {self.validation}")

    def _speech(self, y: Any, x: np.ndarray) -> Float[np.ndarray, "trials features samples"]:
        """Features of the trials' speech, checked against the trials."""
        if y is None:
            raise InputError("expected what was heard beside the trials: features or audio")
        speech = self._features(y, x.shape[2])
        if len(speech) != len(x) or speech.shape[2] != x.shape[2]:
            raise InputError(
                f"{len(x)} trials of {x.shape[2]} samples, but speech of shape {speech.shape}: expected "
                "(trials, features, samples) at the rate of the trials, or (trials, audio samples)"
            )
        return speech

    def _features(self, y: Any, samples: int) -> Float[np.ndarray, "trials features samples"]:
        try:
            speech = np.asarray(y, np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(f"expected speech as numbers: {error}") from None
        if speech.ndim not in (2, 3) or not speech.size:
            raise InputError(
                f"expected features (trials, features, samples) or audio (trials, samples), got {speech.shape}"
            )
        if not np.isfinite(speech).all():
            raise InputError("the speech holds NaN or infinite values: repair or drop these trials")
        if speech.ndim == 3:
            return speech
        bands = log_mel(torch.from_numpy(speech), self.audio_rate, bands=self.bands, hop_length=_HOP)
        return frames_at(bands, self.audio_rate / _HOP, self.sfreq, samples).numpy()

    def _learn_scales(self, x: np.ndarray, speech: np.ndarray, person: np.ndarray) -> None:
        rng = np.random.default_rng(self.seed)
        centres, spreads = [], []
        based = self._based(x)
        for number in range(len(self.subjects_)):
            own = np.flatnonzero(person == number)
            some = based[own if len(own) <= 200 else rng.choice(own, 200, replace=False)]
            low, middle, high = np.quantile(some, (0.25, 0.5, 0.75), axis=(0, 2))
            centres.append(middle)
            spreads.append(np.where(high > low, high - low, 1.0))
        self.centre_, self.spread_ = np.stack(centres), np.stack(spreads)
        axes = (0, 2) if self.scaling == "rows" else (0, 1, 2)
        mean, deviation = speech.mean(axes, keepdims=True, dtype=np.float64), speech.std(axes, keepdims=True)
        self.speech_mean_ = np.broadcast_to(mean, (1, self.features_, 1)).copy()
        self.speech_scale_ = np.broadcast_to(np.where(deviation > 0, deviation, 1), (1, self.features_, 1)).copy()

    def _based(self, x: np.ndarray) -> Float[np.ndarray, "trials channels samples"]:
        count = min(round(self.baseline * self.sfreq), x.shape[2])
        return x - x[..., :count].mean(-1, keepdims=True, dtype=np.float64) if count else x.astype(np.float64)

    def _brain(self, x: np.ndarray, person: np.ndarray) -> Float[np.ndarray, "trials channels kept"]:
        scaled = (self._based(x) - self.centre_[person][..., None]) / self.spread_[person][..., None]
        return scaled.clip(-self.clamp, self.clamp)[..., self._lag(x.shape[2]) :].astype(np.float32)

    def _target(self, speech: np.ndarray) -> Float[np.ndarray, "trials features kept"]:
        kept = speech[..., : speech.shape[2] - self._lag(speech.shape[2])]
        return ((kept - self.speech_mean_) / self.speech_scale_).astype(np.float32)

    def _lag(self, samples: int) -> int:
        lag = round(self.delay * self.sfreq)
        if lag >= samples:
            raise InputError(f"trials of {samples} samples are too short for a delay of {self.delay:g} s")
        return lag

    def _held_out(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to stop by; a stretch of speech is on one side alone, whoever heard it."""
        distinct = np.unique(codes)
        count = round(len(distinct) * self.validation)
        if count < 2:
            return np.arange(len(codes)), np.zeros(0, np.int64)
        chosen = np.random.default_rng(self.seed).permutation(distinct)[:count]
        is_held = np.isin(codes, chosen)
        return np.flatnonzero(~is_held), np.flatnonzero(is_held)

    def _config(self) -> SpeechDecodingConfig:
        return SpeechDecodingConfig(
            features=self.features_ if self.target == "features" else min(_LATENT, 2 * self.features_),
            subjects=len(self.subjects_),
            virtual_sensors=self.virtual_sensors,
            position_dim=self.position_dim,
            ban_radius=self.ban_radius,
            mixed=self.virtual_sensors,
            hidden=self.hidden,
            layers=self.layers,
            kernel_size=self.kernel_size,
        )

    def _build(self) -> _Matcher:
        return _Matcher(self._config(), self.features_ if self.target == "deep-mel" else None, self.channels_)

    def _loss(self, matcher: nn.Module, x: Tensor, person: Tensor, speech: Tensor, codes: Tensor) -> Tensor:
        assert isinstance(matcher, _Matcher)
        decoded = matcher.brain(x, person, matcher.layout)
        if self.loss == "regression":
            return F.mse_loss(decoded, speech)
        return clip_loss(clip_scores(decoded, matcher.speech(speech)), codes)

    def _keep(self, matcher: _Matcher) -> None:
        self.matcher_ = matcher.eval()
        self.module_: SpeechDecoding = matcher.brain
        self._merged: MergedSpeechDecoding = matcher.brain.merged(matcher.layout)

    @torch.inference_mode()
    def _candidates(self, candidates: Any) -> Float[Tensor, "candidates features kept"]:
        speech = self._features(candidates, self.samples_)
        if speech.shape[1:] != (self.features_, self.samples_):
            raise InputError(
                f"candidates have shape {speech.shape}: expected (candidates, {self.features_}, {self.samples_})"
            )
        targets = torch.from_numpy(self._target(speech))
        device = self._device()
        return torch.cat([self.matcher_.speech(part.to(device)).cpu() for part in targets.split(256)])

    def _checked(self, X: Any, subject: Any) -> tuple[np.ndarray, np.ndarray]:
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, channels=self.channels_, samples=self.samples_)
        if subject is None:
            if len(self.subjects_) > 1:
                raise InputError(f"fitted on {len(self.subjects_)} subjects: say whose trials these are by subject=")
            return x, np.zeros(len(x), np.int64)
        labels = _labels(subject, len(x))
        if len(strangers := np.setdiff1d(labels, self.subjects_)):
            raise InputError(f"subject {strangers[0]} was not in the training: each needs a matrix of their own")
        return x, np.searchsorted(self.subjects_, labels)

    def _device(self) -> torch.device:
        chosen = self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(chosen)

    def _on_epoch(self, epoch: int, entry: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress((epoch + 1) / self.epochs, " ".join(f"{name} {value:.3f}" for name, value in entry.items()))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "matcher_")

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays = {f"module.{n}": tensor.detach().cpu().numpy() for n, tensor in self.matcher_.state_dict().items()}
        for name in ("centre_", "spread_", "speech_mean_", "speech_scale_", "heard_"):
            arrays[name] = getattr(self, name)
        sizes = {"channels": self.channels_, "samples": self.samples_, "features": self.features_}
        return arrays, {**sizes, "subjects": self.subjects_.tolist(), "config": asdict(self._config())}

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.channels_, self.samples_, self.features_ = (int(values[n]) for n in ("channels", "samples", "features"))
        self.subjects_ = np.array(values["subjects"])
        if not 0 < self.channels_ <= 1 << 16 or not 0 < self.samples_ <= 1 << 24 or not 0 < self.features_ <= 1 << 16:
            raise ValueError("sizes are out of range")
        if values["config"] != asdict(self._config()):
            raise ValueError("the parameters do not belong to the weights")
        for name, shape in (
            ("centre_", (len(self.subjects_), self.channels_)),
            ("spread_", (len(self.subjects_), self.channels_)),
            ("speech_mean_", (1, self.features_, 1)),
            ("speech_scale_", (1, self.features_, 1)),
        ):
            if arrays[name].shape != shape:
                raise ValueError(f"{name} has shape {arrays[name].shape}")
            setattr(self, name, arrays[name])
        self.heard_ = arrays["heard_"]
        state = {n.removeprefix("module."): torch.from_numpy(a) for n, a in arrays.items() if n.startswith("module.")}
        self._keep(build(self._build, state).to(self._device()))
        self.layout_ = self.matcher_.layout.cpu().numpy()
        self.history_ = []


class _Matcher(nn.Module):
    """Both sides of the comparison, and where the sensors are."""

    layout: Tensor

    def __init__(self, config: SpeechDecodingConfig, bands: int | None, channels: int):
        super().__init__()
        self.brain = SpeechDecoding(config)
        self.speech: nn.Module = nn.Identity()
        if bands is not None:
            self.speech = nn.Sequential(DilatedBlocks(bands, config), FeatureHead(config.hidden, config.features))
        self.register_buffer("layout", torch.zeros(channels, 2))


def _labels(subject: Any, trials: int) -> np.ndarray:
    labels = np.asarray(subject)
    if labels.shape != (trials,):
        raise InputError(f"expected one subject for each of {trials} trials, got labels of shape {labels.shape}")
    return labels
