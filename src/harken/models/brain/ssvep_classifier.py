"""SSVEP-DNN as an estimator: one network for everybody, then one for each person (arXiv 2011.08562)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from harken.data.brain import as_array, check_trials
from harken.errors import InputError, OutputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain._fitting import Budget, fit_module, in_batches
from harken.models.brain._subject_fitting import NOBODY, PersonalBudget, State, fit_each
from harken.models.brain.ssvep_dnn import SSVEPNet, SSVEPNetConfig
from harken.signal.filter_bank import split_bands
from harken.whole_files import whole_file

# forty classes, thousands of trials, hours of a CPU: SSVEPClassifier(250.0, **AS_PUBLISHED)
AS_PUBLISHED: dict[str, Any] = {
    "filters": 120,
    "dropout": (0.1, 0.1, 0.95),
    "epochs": 1000,
    "batch_size": 100,
    "lr": 1e-4,
    "subject_epochs": 1000,
    "subject_lr": 1e-4,
    "subject_dropout": (0.6, 0.6, 0.95),
}


class SSVEPClassifier(NeuralClassifier):
    """Names the flicker by a small convolutional network on sub-bands, trained in two stages.

    Stage 1 trains one network on all trials. Where ``fit`` is told whose trials they are, stage 2 goes on from there
    with a copy for each person, all copies at once. Prediction takes a person's own network, and the common one for
    people it has not met. The defaults suit a hundred trials of a few classes; ``AS_PUBLISHED`` holds the paper's.

    Args:
        sfreq: samples a second; epochs and :class:`~harken.data.brain.Trials` bring their own.
        window: seconds from the start of each trial that it looks at; all of them when None.
        crops: windows cut from each training trial, evenly spaced; more than one only where the phase of the flicker is
            not what tells classes apart.
        scaling: each trial by its own strength (``"trial"``; a loud artefact is then one trial among others), or all by
            one number (``"common"``, nearer to the paper, which takes microvolts as they are).
        bands: sub-bands, see :func:`harken.signal.filter_bank.split_bands`.
        filters, dropout: of :class:`~harken.models.brain.ssvep_dnn.SSVEPNet`.
        epochs, batch_size, lr, weight_decay: of stage 1: Adam, with an L2 penalty on weights.
        subject_epochs, subject_lr, subject_dropout: of stage 2, whose batch is all of a person's trials.
        validation, patience: share of the trials that decides when stage 1 stops; 0 runs all epochs.
        seed, device, progress: as of every neural estimator of harken.

    Attributes:
        module_: the common network.
        subjects_: who has a network of their own.

    >>> from harken.data.ssvep import synthetic_ssvep
    >>> trials = synthetic_ssvep(blocks=6, snr=0.6, seed=1)
    >>> train, test = trials.session < 5, trials.session == 5
    >>> decoder = SSVEPClassifier(trials.sfreq, filters=16).fit(trials.x[train], trials.y[train])
    >>> decoder.score(trials.x[test], trials.y[test]) > 0.5
    True
    """

    def __init__(
        self,
        sfreq: float = 250.0,
        *,
        window: float | None = None,
        crops: int = 1,
        scaling: Literal["trial", "common"] = "trial",
        bands: int = 3,
        filters: int = 32,
        dropout: tuple[float, float, float] = (0.1, 0.1, 0.5),
        epochs: int = 100,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 1e-3,
        subject_epochs: int = 50,
        subject_lr: float = 1e-3,
        subject_dropout: tuple[float, float, float] = (0.3, 0.3, 0.5),
        validation: float = 0.0,
        patience: int | None = 20,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.sfreq = sfreq
        self.window = window
        self.crops = crops
        self.scaling = scaling
        self.bands = bands
        self.filters = filters
        self.dropout = dropout
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.subject_epochs = subject_epochs
        self.subject_lr = subject_lr
        self.subject_dropout = subject_dropout
        self.validation = validation
        self.patience = patience
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any, subject: Any = None) -> Self:
        """Train on trials.

        Args:
            X: ``(trials, channels, samples)``, any unit, or ``mne.Epochs``.
            y: labels.
            subject: whose each trial is, whole numbers, ``(trials,)``; None for no second stage.

        Raises:
            InputError: unusable trials, labels or windows, or one class only.
        """
        x, labels = self._start(X, y)
        people = None if subject is None else np.asarray(subject)
        if people is not None and (people.shape != (len(x),) or not np.issubdtype(people.dtype, np.integer)):
            raise InputError(f"expected a whole number for each of {len(x)} trials as its subject")
        length = x.shape[2]
        self.samples_ = length if self.window is None else round(self.window * self._rate)
        if not 1 <= self.samples_ <= length or self.crops < 1:
            have = f"trials of {length / self._rate:.3g} s"
            raise InputError(f"cannot cut {self.crops} windows of {self.window} s from {have}: choose a shorter window")
        train, held_out = self._held_out(labels)
        kept = self._prepare_fit(self._crops(x[train]))
        y_train = np.tile(labels[train], self.crops)
        judged = (self._tensor(x[held_out][:, :, : self.samples_]), torch.from_numpy(labels[held_out]))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            module = self._build(self.channels_, self.samples_, len(self.classes_)).to(self._device())
        self.history_ = fit_module(
            module,
            self._loss,
            (torch.from_numpy(kept), torch.from_numpy(y_train)),
            judged if len(held_out) else None,
            self._budget(),
            seed=self.seed,
            on_epoch=self._on_epoch,
        )
        self.module_: SSVEPNet = module
        self.subjects_: np.ndarray = np.zeros(0, np.int64)
        self.personal_: State = {}
        if people is not None:
            self._fit_people(kept, y_train, np.tile(people[train], self.crops))
        return self

    def _fit_people(self, x: np.ndarray, labels: np.ndarray, people: np.ndarray) -> None:
        """Stage 2; rows of label -1 fill up those who have fewer trials."""
        known, counts = np.unique(people, return_counts=True)
        stacked = np.zeros((len(known), counts.max(), *x.shape[1:]), np.float32)
        targets = np.full((len(known), counts.max()), NOBODY)
        for number, person in enumerate(known):
            own = people == person
            stacked[number, : own.sum()], targets[number, : own.sum()] = x[own], labels[own]
        start = SSVEPNet(replace(self.module_.config, dropout=_three(self.subject_dropout)))
        start.load_state_dict(self.module_.state_dict())
        budget = PersonalBudget(self.subject_epochs, self.subject_lr, self.weight_decay)
        device = self._device()

        def told(epoch: int, loss: float) -> None:
            if self.progress is not None:
                self.progress((epoch + 1) / self.subject_epochs, f"each person: loss {loss:.3f}")

        self.personal_ = fit_each(
            start.to(device),
            torch.from_numpy(stacked).to(device),
            torch.from_numpy(targets).to(device),
            budget,
            seed=self.seed,
            on_epoch=told,
        )
        self.subjects_ = known

    def network_of(self, subject: int | None = None) -> SSVEPNet:
        """A person's own network, in evaluation mode; the common one for None and for people not met."""
        self._check_fitted()
        found = np.flatnonzero(self.subjects_ == subject)
        if subject is None or not len(found):
            return self.module_
        net = SSVEPNet(self.module_.config).to(self._device())
        net.load_state_dict({name: stacked[found[0]] for name, stacked in self.personal_.items()})
        return net.eval()

    def predict(self, X: Any, subject: Any = None) -> np.ndarray:
        """The likeliest label of each trial; ``subject``, one number or one a trial, chooses the networks."""
        return self.classes_[self._logits(X, subject).argmax(1)]

    def predict_proba(self, X: Any, subject: Any = None) -> Float[np.ndarray, "trials classes"]:
        """Probability of each class, in the order of ``classes_``."""
        return torch.from_numpy(self._logits(X, subject)).double().softmax(-1).numpy()

    def score(self, X: Any, y: Any, sample_weight: Any = None, subject: Any = None) -> float:
        """Accuracy."""
        is_right = self.predict(X, subject) == np.asarray(y)
        return float(np.average(is_right, weights=sample_weight))

    def export(self, path: str | os.PathLike[str], subject: int | None = None) -> None:
        """Write a TorchScript file: scaled sub-bands ``(batch, bands, channels, samples)`` to logits, fused.

        Raises:
            OutputError: it cannot be written.
        """
        fused = self.network_of(subject).cpu().fused()
        example = torch.zeros(1, self.bands, self.channels_, self.samples_)
        try:
            with whole_file(Path(path)) as partial:
                torch.jit.trace(fused, example).save(str(partial))
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot write '{path}': {str(error).splitlines()[0][:100]}") from None

    @property
    def _rate(self) -> float:
        return float(self.sfreq_ or self.sfreq)

    def _build(self, channels: int, samples: int, classes: int) -> SSVEPNet:
        return SSVEPNet(SSVEPNetConfig(channels, samples, classes, self.bands, self.filters, _three(self.dropout)))

    def _budget(self) -> Budget:
        # the penalty spares biases, so it is part of the loss
        return Budget(self.epochs, self.batch_size, self.lr, patience=self.patience)

    def _loss(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(module(x), y)
        return loss + self.weight_decay * module.penalty() if module.training else loss  # type: ignore[operator]

    def _crops(self, x: np.ndarray) -> np.ndarray:
        starts = np.linspace(0, x.shape[2] - self.samples_, self.crops).astype(int)
        return np.concatenate([x[:, :, start : start + self.samples_] for start in starts])

    def _prepare_fit(
        self, x: Float[np.ndarray, "trials channels samples"]
    ) -> Float[np.ndarray, "trials bands channels samples"]:
        if self.scaling not in ("trial", "common"):
            raise InputError(f"expected a scaling of 'trial' or 'common', got {self.scaling!r}")
        bands = split_bands(x, self._rate, self.bands)
        # of what the filters leave: electrodes have offsets a thousand times larger
        self.scale_ = float(bands.std()) or 1.0
        return self._scaled(bands)

    def _prepare(
        self, x: Float[np.ndarray, "trials channels samples"]
    ) -> Float[np.ndarray, "trials bands channels samples"]:
        return self._scaled(split_bands(x, self._rate, self.bands))

    def _scaled(self, bands: np.ndarray) -> np.ndarray:
        scale: Any = self.scale_
        if self.scaling == "trial":
            scale = bands.std((1, 2, 3), keepdims=True)
            scale = np.where(scale > 1e-9 * self.scale_, scale, self.scale_)
        return (bands / scale).astype(np.float32)

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(self._prepare(x)) if len(x) else torch.zeros(0)

    def _checked(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        self._check_fitted()
        x, sfreq, names = as_array(X)
        if sfreq is not None and abs(sfreq - self._rate) > 1e-6 * sfreq:
            raise InputError(f"the decoder was fitted at {self._rate:g} Hz, these trials have {sfreq:g}: resample them")
        if names is not None and self.ch_names_ is not None and names != self.ch_names_:
            raise InputError(
                f"the decoder was fitted on the channels {', '.join(self.ch_names_)}: give these, in this order"
            )
        if self.window is not None:  # a trial may go on behind its window
            x = x[:, :, : self.samples_]
        check_trials(x, channels=self.channels_, samples=self.samples_)
        return x

    def _logits(self, X: Any, subject: Any = None) -> Float[np.ndarray, "trials classes"]:
        x = self._tensor(self._checked(X))
        device = self._device()
        if subject is None:
            return in_batches(self.module_, x, device).numpy()
        people = np.broadcast_to(np.asarray(subject), (len(x),))
        logits = np.empty((len(x), len(self.classes_)), np.float32)
        for person in np.unique(people):
            own = people == person
            logits[own] = in_batches(self.network_of(int(person)), x[own], device).numpy()
        return logits

    def _prepared_state(self) -> dict[str, np.ndarray]:
        personal = {f"personal.{name}": stacked.cpu().numpy() for name, stacked in self.personal_.items()}
        return {"subjects": self.subjects_, **personal}

    def _restore_prepared(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.subjects_ = np.asarray(arrays["subjects"])
        self.personal_ = {
            name.removeprefix("personal."): torch.from_numpy(array)
            for name, array in arrays.items()
            if name.startswith("personal.")
        }

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        super()._restore(arrays, values)
        expected = {name: (len(self.subjects_), *tensor.shape) for name, tensor in self.module_.state_dict().items()}
        found = {name: tuple(tensor.shape) for name, tensor in self.personal_.items()}
        if len(self.subjects_) and found != expected:
            raise ValueError("the networks of its people are not of its sizes")


def _three(rates: Any) -> tuple[float, float, float]:
    """Dropout rates, which come back from JSON as they may."""
    first, second, third = map(float, rates)
    return first, second, third
