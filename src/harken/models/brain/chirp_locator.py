"""Where chirps begin and end, as an estimator: trained on synthetic pictures, used on real ones (arXiv 2503.22713)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from sklearn.base import RegressorMixin
from torch import Tensor, nn

from harken.data.brain import as_array, check_trials
from harken.data.chirps import ChirpGrid
from harken.errors import CheckpointError, InputError
from harken.models import weights_folder
from harken.models._base import build
from harken.models.brain._estimator import Progress, SavedEstimator
from harken.models.brain._fitting import Budget, fit_module, in_batches
from harken.models.brain.chirp import TARGETS, ChirpLocalizer, ChirpLocalizerConfig
from harken.models.brain.chirp_ridge import follow_ridge
from harken.models.brain.chirp_traces import FoundChirp, refined, strongest
from harken.models.brain.chirp_training import Lesson, localization_loss, standardised_pictures, teach
from harken.signal.slow_spectrogram import slow_spectrogram

_SLUG = "chirp-localization"
_RIDGE_SIZE = 128


class ChirpLocator(RegressorMixin, SavedEstimator):
    """Spectrograms to start time (s), start frequency and end frequency (Hz) of the chirp in each.

    ``fit()`` without arguments trains on synthetic pictures, drawn afresh at every step. ``start="bundled"`` begins
    with the weights that ship: ``fit(X, y)`` then adapts them to pictures of your own, all of them or by low-rank
    updates. One chirp a picture: :meth:`locate` cuts recordings into overlapping windows.

    Args:
        duration, max_frequency: seconds and hertz that a picture covers, from 0.
        method: ``"network"``, or ``"ridge"``, which follows the brightest row and learns nothing.
        start: ``"bundled"`` or ``"scratch"``.
        tune: train ``"all"``, or ``"lora"``: low-rank updates of queries and values, and the head.
        config: of the network from scratch: what differs from the bundled
            :class:`~harken.models.brain.chirp.ChirpLocalizerConfig`.
        pictures, sub_bin: how many synthetic pictures, and whether chirps lie between bins.
        epochs: passes over pictures of your own.
        batch_size, lr, weight_decay: of AdamW.
        validation: share of your own pictures, the last, that decides which epoch is best.
        seed, device, progress: as elsewhere.

    Attributes:
        module_: the network.
        history_: losses, epoch by epoch.

    >>> from harken.data.chirps import ChirpGrid, chirp_spectrograms, draw_chirps
    >>> chirps = draw_chirps(4, seed=1)
    >>> ChirpLocator(method="ridge").fit().predict(chirp_spectrograms(chirps)).shape
    (4, 3)
    """

    module_: nn.Module
    history_: list[dict[str, float]]

    def __init__(
        self,
        *,
        duration: float = 60.0,
        max_frequency: float = 100.0,
        method: Literal["network", "ridge"] = "network",
        start: Literal["bundled", "scratch"] = "scratch",
        tune: Literal["all", "lora"] = "all",
        config: dict[str, Any] | None = None,
        pictures: int = 150_000,
        sub_bin: bool = True,
        epochs: int = 30,
        batch_size: int = 32,
        lr: float = 2e-3,
        weight_decay: float = 0.05,
        validation: float = 0.2,
        seed: int = 0,
        device: str = "auto",
        progress: Progress | None = None,
    ):
        self.duration = duration
        self.max_frequency = max_frequency
        self.method = method
        self.start = start
        self.tune = tune
        self.config = config
        self.pictures = pictures
        self.sub_bin = sub_bin
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation = validation
        self.seed = seed
        self.device = device
        self.progress = progress

    @classmethod
    def pretrained(cls, duration: float = 60.0, max_frequency: float = 100.0, **parameters: Any) -> Self:
        """A locator with the weights that ship, ready to predict.

        Raises:
            CheckpointError: none ship with this installation.
        """
        made = cls(duration=duration, max_frequency=max_frequency, start="bundled", **parameters)
        made._check_choices()
        made.module_, made.history_ = made._bundled().to(made._device()).eval(), []
        return made

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Train: on synthetic pictures without arguments, else on spectrograms and where their chirps are.

        Args:
            X: spectrograms ``(pictures, frequencies, times)``, row 0 the lowest, any size and unit.
            y: ``(pictures, 3)``: start time (s), start and end frequency (Hz); or five columns, with duration (s) and
                1 for exponential chirps.

        Raises:
            InputError: shapes that do not fit, or values outside the picture.
        """
        self._check_choices()
        if self.method == "ridge":
            self.module_, self.history_ = nn.Identity(), []
            return self
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = self._bundled() if self.start == "bundled" else ChirpLocalizer(self._config())
            if self.tune == "lora":
                model = model.adapted()
        model = model.to(self._device())
        if X is None:
            size = model.config.image_size
            lesson = Lesson(
                self.pictures, min(3000, self.pictures), self.batch_size, self.lr, self.weight_decay, self.sub_bin
            )
            grid = dataclasses.replace(self.grid, times=size, frequencies=size)
            epochs = max(1, round(self.pictures / lesson.epoch))
            self.history_ = teach(model, lesson, grid, seed=self.seed, on_epoch=self._on_epoch(epochs))
        else:
            self.history_ = self._fit_own(model, X, y)
        self.module_ = model
        return self

    @property
    def grid(self) -> ChirpGrid:
        """The picture, with chirps as long and wide against it as the paper's."""
        return ChirpGrid(
            duration=self.duration,
            max_frequency=self.max_frequency,
            longest=max(1.0 + 1e-6, self.duration / 4),
            widest=self.max_frequency * 0.3,
        )

    def refine(self, X: Any) -> Float[np.ndarray, "pictures 5"]:
        """:meth:`predict_all`, moved to the brightest trace nearby: not in the paper, and mostly nearer."""
        self._check_fitted()
        pictures = standardised_pictures(_pictures(X))
        places = self._located(pictures)
        moved = [refined(*pair, seed=self.seed)[0] for pair in zip(pictures, places, strict=True)]
        return np.stack(moved) * self._units()

    def predict(self, X: Any) -> Float[np.ndarray, "pictures 3"]:
        """Start time (s), start frequency and end frequency (Hz) of each picture's chirp."""
        return self.predict_all(X)[:, :3]

    def predict_all(self, X: Any) -> Float[np.ndarray, "pictures 5"]:
        """The same with duration (s) and kind (above 0.5: exponential); NaN where the network does not tell them."""
        self._check_fitted()
        return self._located(standardised_pictures(_pictures(X))) * self._units()

    def locate(
        self,
        X: Any,
        sfreq: float | None = None,
        *,
        threshold: float = 6.0,
        overlap: float = 0.5,
    ) -> list[list[FoundChirp]]:
        """Chirps in signals: for each trial those that stand out, in the order of time.

        Each channel's spectrogram, every frequency against its own background, is cut into windows of ``duration``
        that overlap. What the network says of each is moved to the brightest trace nearby, whose strength decides; of
        chirps that two windows find, the stronger stays. Shorter signals are one window as they are.

        Args:
            X: ``(trials, channels, samples)``, ``mne.Epochs`` or :class:`~harken.data.brain.Trials`.
            sfreq: hertz, where ``X`` does not say.
            threshold: strength from which one counts; higher finds fewer.
            overlap: share of a window that the next one covers too.

        Raises:
            InputError: signals that are too short, broken, or of a rate below twice ``max_frequency``.
        """
        self._check_fitted()
        x, known, _ = as_array(X)
        check_trials(x)
        rate = known or sfreq
        if rate is None or not 0 < rate < np.inf:
            raise InputError("the rate of the signals is not known: give sfreq, in hertz")
        if not 0 <= overlap < 1:
            raise InputError(f"expected an overlap in [0, 1), got {overlap}")
        length = min(x.shape[-1], round(self.duration * rate))
        hop = max(1, round(length * (1 - overlap)))
        starts = sorted({*range(0, x.shape[-1] - length + 1, hop), x.shape[-1] - length})
        found: list[list[FoundChirp]] = []
        for number, trial in enumerate(x):
            chirps = [c for start in starts for c in self._locate_window(trial, start, length, rate, threshold)]
            found.append(strongest(chirps))
            if self.progress is not None:
                self.progress((number + 1) / len(x), f"{len(found[-1])} chirps")
        return found

    def pictures_of(
        self, signals: Float[np.ndarray, "signals samples"], sfreq: float
    ) -> Float[np.ndarray, "signals frequencies times"]:
        """The pictures that the network sees of signals of one window each."""
        model: Any = self.module_
        size = _RIDGE_SIZE if self.method == "ridge" else model.config.image_size
        made = slow_spectrogram(
            torch.from_numpy(np.ascontiguousarray(signals, np.float32)), sfreq,
            max_frequency=self.max_frequency, rows=size, columns=size,
        )  # fmt: skip
        return standardised_pictures(made.numpy(), by_row=True)

    def _locate_window(
        self, trial: np.ndarray, start: int, length: int, sfreq: float, threshold: float
    ) -> list[FoundChirp]:
        pictures = self.pictures_of(trial[:, start : start + length], sfreq)
        places = self._located(pictures)
        seconds, begin = length / sfreq, start / sfreq
        found = []
        for channel, (picture, place) in enumerate(zip(pictures, places, strict=True)):
            trace, strength = refined(picture, place, seed=self.seed)
            if strength < threshold:
                continue
            onset, low, high, duration, kind = (float(value) for value in trace)
            found.append(
                FoundChirp(
                    begin + onset * seconds,
                    begin + min(1.0, onset + duration) * seconds,
                    low * self.max_frequency,
                    high * self.max_frequency,
                    kind > 0.5,
                    strength,
                    channel,
                )
            )
        return found

    def _located(self, pictures: np.ndarray) -> np.ndarray:
        """Shares, ``(pictures, 5)``, of standardised pictures."""
        if self.method == "ridge":
            return follow_ridge(pictures)
        model: Any = self.module_
        images = _resized(torch.from_numpy(pictures)[:, None], model.config.image_size)
        images = images.expand(-1, model.config.channels, -1, -1)
        made = in_batches(model.locate, images, self._device()).numpy()
        return np.pad(made, ((0, 0), (0, len(TARGETS) - made.shape[1])), constant_values=np.nan)

    def _fit_own(self, model: ChirpLocalizer, X: Any, y: Any) -> list[dict[str, float]]:
        pictures = _pictures(X)
        places = np.asarray(y, np.float64)
        if places.ndim != 2 or places.shape[0] != len(pictures) or places.shape[1] not in (3, len(TARGETS)):
            raise InputError(f"expected y of shape ({len(pictures)}, 3) or ({len(pictures)}, 5), got {places.shape}")
        known = min(places.shape[1], model.config.targets)
        targets = places / self._units()[: places.shape[1]]
        if not np.isfinite(targets).all() or (targets < 0).any() or (targets > 1).any():
            raise InputError(
                f"expected times within {self.duration:g} s and frequencies within {self.max_frequency:g} Hz"
            )
        if not 0 <= self.validation < 1:
            raise InputError(f"expected a validation share in [0, 1), got {self.validation}")
        images = _resized(torch.from_numpy(standardised_pictures(pictures))[:, None], model.config.image_size)
        images = images.expand(-1, model.config.channels, -1, -1).contiguous()
        made = torch.from_numpy(targets[:, :known].astype(np.float32))
        kept = len(images) - round(len(images) * self.validation)
        if self.start == "scratch" and kept > 1:
            model.target_mean[:known].copy_(made[:kept].mean(0))
            model.target_std[:known].copy_(made[:kept].std(0).clamp_min(1e-3))

        def loss(module: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
            return localization_loss(module, images, targets)  # type: ignore[arg-type]

        budget = Budget(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, weight_decay=self.weight_decay, patience=None,
            schedule="cosine", decoupled=True, clip_norm=1.0,
        )  # fmt: skip
        return fit_module(
            model,
            loss,
            (images[:kept], made[:kept]),
            (images[kept:], made[kept:]) if kept < len(images) else None,
            budget,
            seed=self.seed,
            on_epoch=self._on_epoch(self.epochs),
        )

    def _units(self) -> np.ndarray:
        return np.array([self.duration, self.max_frequency, self.max_frequency, self.duration, 1.0])

    def _on_epoch(self, epochs: int) -> Any:
        def told(epoch: int, entry: dict[str, float]) -> None:
            if self.progress is not None:
                note = " ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in entry.items())
                self.progress((epoch + 1) / epochs, note)

        return told

    def _check_choices(self) -> None:
        for name, choices in (
            ("method", ("network", "ridge")),
            ("start", ("bundled", "scratch")),
            ("tune", ("all", "lora")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(f"expected {name} to be {' or '.join(choices)}, got {getattr(self, name)!r}")
        if not 4 < self.duration < np.inf or not 0 < self.max_frequency < np.inf:
            raise InputError("expected a duration above 4 s and a max_frequency above 0 Hz")

    def _config(self) -> ChirpLocalizerConfig:
        try:
            return dataclasses.replace(ChirpLocalizerConfig.small(), **(self.config or {}))
        except TypeError as error:
            raise InputError(f"config: {error}") from None

    def _bundled(self) -> ChirpLocalizer:
        folder = weights_folder(_SLUG)
        if folder is None:
            raise CheckpointError("no weights of the chirp locator ship: train with 'harken brain chirp train'")
        return ChirpLocalizer.from_pretrained(folder)

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        model: Any = self.module_
        arrays = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
        return arrays, {} if self.method == "ridge" else {"network": dataclasses.asdict(model.config)}

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self._check_choices()
        self.history_ = []
        if self.method == "ridge":
            self.module_ = nn.Identity()
            return
        listed: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values["network"].items()
        }
        config = ChirpLocalizerConfig(**listed)
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        self.module_ = build(lambda: ChirpLocalizer(config), state).to(self._device()).eval()

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")


def _pictures(X: Any) -> Float[np.ndarray, "pictures frequencies times"]:
    x = np.asarray(X)
    if x.ndim != 3 or not x.size or min(x.shape[1:]) < 8 or not np.issubdtype(x.dtype, np.number):
        raise InputError(f"expected spectrograms (pictures, frequencies, times) of 8 x 8 or more, got {x.shape}")
    if not np.isfinite(x).all():
        raise InputError("a spectrogram holds NaN or infinite values")
    return x.astype(np.float32)


def _resized(images: Tensor, size: int) -> Tensor:
    if images.shape[-2:] == (size, size):
        return images
    return nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
