"""The base of decoders that are neural networks: scikit-learn outside, an ``nn.Module`` inside, no pickled files."""

from __future__ import annotations

import inspect
import json
import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.numpy import save_file
from torch import Tensor, nn

from harken.data.brain import as_array, check_trials
from harken.errors import CheckpointError, InputError, MissingExtraError, OutputError
from harken.models._base import build, read_tensors
from harken.models.brain._fitting import Budget, fit_module, in_batches
from harken.whole_files import whole_file, write_text

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import column_or_1d
except ImportError:
    raise MissingExtraError("scikit-learn", extra="brain") from None

Progress = Callable[[float, str], None]
_LARGEST = 1 << 22


class SavedEstimator(BaseEstimator):
    """An estimator that is saved as ``estimator.json`` and ``model.safetensors``: plain text and plain numbers.

    A subclass gives :meth:`_fitted` (what fitting found, as arrays and plain values) and :meth:`_restore`.
    """

    @abstractmethod
    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays, and values that JSON holds."""

    @abstractmethod
    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        """Be as fitted. Whatever it raises of ``KeyError, TypeError, ValueError`` counts as a damaged file."""

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the fitted estimator into a folder.

        Raises:
            NotFittedError: it is not fitted.
            OutputError: the folder cannot be written.
        """
        self._check_fitted()
        arrays, values = self._fitted()
        parameters = {name: value for name, value in self.get_params(deep=False).items() if not callable(value)}
        try:
            text = json.dumps({"estimator": type(self).__name__, "parameters": parameters, "fitted": values}, indent=2)
        except TypeError as error:
            raise OutputError(f"cannot save parameters that are not plain values: {error}") from None
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            with whole_file(Path(folder) / "model.safetensors") as partial:
                save_file({name: np.asarray(array, order="C") for name, array in arrays.items()}, partial)
        except OSError as error:
            raise OutputError(f"cannot save the estimator in '{folder}': {error.strerror or error}") from None
        write_text(Path(folder) / "estimator.json", text + "\n")

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """The fitted estimator of a folder.

        Raises:
            CheckpointError: a file is missing, damaged, or of another estimator.
        """
        path = Path(folder) / "estimator.json"
        try:
            if path.stat().st_size > _LARGEST:
                raise ValueError("it is too large")
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["estimator"] != cls.__name__:
                raise CheckpointError(f"'{folder}' holds a {str(kept['estimator'])[:60]}, not a {cls.__name__}")
            known = inspect.signature(cls).parameters.keys()
            if unknown := sorted(set(kept["parameters"]) - set(known)):
                raise ValueError(f"unknown parameters: {', '.join(unknown)[:100]}")
            lists = {n: tuple(v) if isinstance(v, list) else v for n, v in kept["parameters"].items()}
            estimator = cls(**lists)
            arrays = {
                name: tensor.numpy() for name, tensor in read_tensors(path.with_name("model.safetensors")).items()
            }
            estimator._restore(arrays, kept["fitted"])
        except CheckpointError:
            raise
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)[:120]
            raise CheckpointError(f"'{folder}' holds no usable {cls.__name__}: {why}") from None
        return estimator

    def _check_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(f"this {type(self).__name__} is not fitted yet: call fit first")

    @abstractmethod
    def __sklearn_is_fitted__(self) -> bool: ...


class NeuralClassifier(ClassifierMixin, SavedEstimator):
    """Base of classifiers of trials; a subclass brings its network by :meth:`_build`.

    Trials are scaled by one number, the standard deviation of those it was fitted on. A share of the training trials,
    the last of each class, decides when to stop; with too few trials all epochs are run.

    Constructor parameters that a subclass should have (with these names, stored and nothing else): ``epochs``,
    ``batch_size``, ``lr``, ``weight_decay``, ``validation`` (share), ``patience``, ``seed``, ``device``, ``progress``
    (called as ``progress(share done, note)``).

    Attributes:
        classes_: the labels.
        module_: the network, ``(batch, channels, samples)`` to logits.
        history_: losses, epoch by epoch.
        channels_, samples_, ch_names_, sfreq_: of the trials it was fitted on; the last two None where not known.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    validation: float
    patience: int | None
    seed: int
    device: str
    progress: Progress | None

    @abstractmethod
    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        """The network for trials of this shape; random weights follow from torch's generator, which is seeded."""

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        """Learn what preprocessing needs from training trials, and preprocess them."""
        self.scale_ = float(x.std()) or 1.0
        return self._prepare(x)

    def _prepare(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        """Preprocess trials as those were that it was fitted on."""
        return x / self.scale_

    def _prepared_state(self) -> dict[str, np.ndarray]:
        """What :meth:`_prepare_fit` found, beside ``scale_``, as arrays; a subclass that learns more overrides both."""
        return {}

    def _restore_prepared(self, arrays: Mapping[str, np.ndarray]) -> None:
        """The reverse of :meth:`_prepared_state`."""

    def _before_fit(self, module: nn.Module) -> None:
        """What a network learns before it learns the classes; nothing as a rule."""

    def _loss(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(module(x), y)

    def _budget(self) -> Budget:
        return Budget(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            patience=self.patience,
        )

    def fit(self, X: Any, y: Any) -> Self:
        """Train on trials.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``; with two dimensions, trials of one channel.
            y: one label a trial, numbers or texts.

        Raises:
            InputError: unusable trials, labels that do not fit, or one class only.
        """
        x, labels = self._start(X, y)
        x = self._prepare_fit(x)
        train, held_out = self._held_out(labels)
        tensors = [
            (torch.from_numpy(np.ascontiguousarray(x[i], np.float32)), torch.from_numpy(labels[i]))
            for i in (train, held_out)
        ]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self._build(x.shape[1], x.shape[2], len(self.classes_)).to(self._device())
        self._before_fit(module)
        self.history_ = fit_module(
            module,
            self._loss,
            tensors[0],
            tensors[1] if len(held_out) else None,
            self._budget(),
            seed=self.seed,
            on_epoch=self._on_epoch,
        )
        self.module_ = module
        return self

    def _start(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """Checked trials and the numbers of their classes; shapes, names and classes are noted."""
        x, self.sfreq_, self.ch_names_ = as_array(X)
        check_trials(x)
        if y is None:
            raise InputError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if y.shape != (len(x),):
            raise InputError(f"expected one label for each of {len(x)} trials, got labels of shape {y.shape}")
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InputError("expected trials of at least two classes, got one class")
        self.channels_, self.samples_ = x.shape[1:]
        self.n_features_in_ = self.samples_ if self.channels_ == 1 else self.channels_ * self.samples_
        return x, labels

    def _held_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Indices to train on and to validate on: the last share of each class, which was recorded last."""
        if not 0 <= self.validation < 1:
            raise InputError(f"expected a validation share in [0, 1), got {self.validation}")
        of_class = [np.flatnonzero(labels == label) for label in range(len(self.classes_))]
        if self.validation == 0 or min(map(len, of_class)) * self.validation < 1:
            return np.arange(len(labels)), np.zeros(0, np.int64)
        kept = [len(index) - round(len(index) * self.validation) for index in of_class]
        train = np.sort(np.concatenate([index[:count] for index, count in zip(of_class, kept, strict=True)]))
        return train, np.setdiff1d(np.arange(len(labels)), train)

    def _on_epoch(self, epoch: int, entry: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress((epoch + 1) / self.epochs, " ".join(f"{name} {value:.3f}" for name, value in entry.items()))

    def _device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _checked(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        """Trials to decode, of the shape that was fitted."""
        self._check_fitted()
        x, _, names = as_array(X)
        if names is not None and self.ch_names_ is not None and names != self.ch_names_:
            raise InputError(
                f"the decoder was fitted on the channels {', '.join(self.ch_names_)}: give these, in this order"
            )
        count, wanted = int(np.prod(x.shape[1:])), self.channels_ * self.samples_
        if x.size and count != wanted:  # scikit-learn's words, then ours
            raise InputError(
                f"X has {count} features, but {type(self).__name__} is expecting {wanted} features as input: "
                f"it was fitted on {self.channels_} channels and on {self.samples_} samples, these trials have "
                f"{x.shape[1]} and {x.shape[2]}"
            )
        check_trials(x, channels=self.channels_, samples=self.samples_)
        return x

    def decision_function(self, X: Any) -> Float[np.ndarray, "trials ..."]:
        """Logits, ``(trials, classes)``; with two classes the difference for the second, ``(trials,)``."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def _logits(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        x = np.ascontiguousarray(self._prepare(self._checked(X)), np.float32)
        return in_batches(self.module_, torch.from_numpy(x), self._device()).numpy()

    def predict_proba(self, X: Any) -> Float[np.ndarray, "trials classes"]:
        """Probability of each class, in the order of ``classes_``."""
        return torch.from_numpy(self._logits(X)).double().softmax(-1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The likeliest label of each trial."""
        named = self._logits(X).argmax(1)
        return self.classes_[named]

    def _fitted(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        weights = {
            f"module.{name}": tensor.detach().cpu().numpy() for name, tensor in self.module_.state_dict().items()
        }
        arrays = {**weights, **{f"prepare.{name}": array for name, array in self._prepared_state().items()}}
        return arrays, {
            "classes": self.classes_.tolist(),
            "channels": self.channels_,
            "samples": self.samples_,
            "ch_names": self.ch_names_,
            "sfreq": self.sfreq_,
            "scale": getattr(self, "scale_", 1.0),
        }

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        self.classes_ = np.array(values["classes"])
        self.channels_, self.samples_ = int(values["channels"]), int(values["samples"])
        if (
            self.classes_.ndim != 1
            or not 2 <= len(self.classes_) <= 10_000
            or not 0 < self.channels_ * self.samples_ < 1 << 28
        ):
            raise ValueError("sizes are out of range")
        self.ch_names_ = None if values["ch_names"] is None else tuple(values["ch_names"])
        self.sfreq_ = values["sfreq"]
        self.scale_ = float(values["scale"])
        self.n_features_in_ = self.samples_ if self.channels_ == 1 else self.channels_ * self.samples_
        parts = {
            kind: {n.removeprefix(kind): a for n, a in arrays.items() if n.startswith(kind)}
            for kind in ("module.", "prepare.")
        }
        self._restore_prepared(parts["prepare."])
        state = {name: torch.from_numpy(array) for name, array in parts["module."].items()}
        self.module_ = build(lambda: self._build_restored(), state).to(self._device()).eval()
        self.history_ = []

    def _build_restored(self) -> nn.Module:
        """The network for saved weights; a subclass whose preprocessing changes the shape overrides it."""
        return self._build(self.channels_, self.samples_, len(self.classes_))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "module_")
