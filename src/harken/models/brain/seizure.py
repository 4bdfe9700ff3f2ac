"""Find seizures, or tell any brain states apart, by MVPFormer with little labelled data (arXiv 2506.20354)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from harken.data.brain import Recording, as_array, check_trials
from harken.errors import InputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain._fitting import Budget, fit_module, in_batches
from harken.models.brain.mvpformer import MVPFormer, MVPFormerConfig
from harken.models.brain.next_segment import NEGATIVES, next_segment_loss, retrieval_accuracy


class Course(NamedTuple):
    """Probabilities along a recording.

    Attributes:
        times: seconds at which each window ends: a decision needs nothing later.
        probabilities: of each class, ``(windows, classes)``.
        window: seconds that each decision looks back.
    """

    times: Float[np.ndarray, " windows"]
    probabilities: Float[np.ndarray, "windows classes"]
    window: float


class SeizureDetector(NeuralClassifier):
    """Trials to states: wavelet tokens, attention over time and channels, learned first without labels if so wished.

    A trial is cut into segments, its last samples that fill none left out. With ``pretrain_epochs`` the network first
    learns to tell the segment that follows from others, on the training trials and on ``unlabelled`` ones, then the
    classes. A channel that is flat throughout a trial counts as missing: nothing attends to it.

    Args:
        segment: samples of one; 0.5 to 5 seconds serve.
        wavelet: of the tokens.
        dim, layers, heads, kv_heads, hidden, content_window, dropout, attention: see
            :class:`~harken.models.brain.mvpformer.MVPFormerConfig`.
        readout: classify the ``"last"`` segment as published, or the ``"mean"`` of all.
        amplitude: let tokens carry the power of their wavelet bands, which the published encoder takes away.
        pretrain_epochs: passes without labels; 0 starts from scratch.
        pretrain_lr, negatives: of that.
        tune: train ``"all"`` afterwards, or low-rank updates and the classifier only (``"lora"``, as published).
        lora_rank: of the updates.
        balanced: weigh classes by their rarity.
        any_channels: decode trials with another number of channels than those fitted on.
        epochs, batch_size, lr, weight_decay, validation, patience, seed, device, progress: of the training with labels.

    Attributes:
        pretrain_history_: losses without labels, epoch by epoch.
        pretrained_: the network before it saw a label, where there was pre-training; not saved.
        Others: see :class:`~harken.models.brain._estimator.NeuralClassifier`.

    >>> x = np.random.default_rng(0).standard_normal((12, 2, 64))
    >>> detector = SeizureDetector(segment=16, dim=8, layers=1, hidden=8, epochs=1).fit(x, [0, 1] * 6)
    >>> detector.predict_segments(x).shape
    (12, 4, 2)
    """

    def __init__(
        self,
        segment: int = 128,
        *,
        wavelet: str = "db4",
        dim: int = 64,
        layers: int = 3,
        heads: int = 4,
        kv_heads: int = 2,
        hidden: int = 128,
        content_window: int | None = 10,
        attention: str = "multivariate",
        readout: Literal["last", "mean"] = "mean",
        amplitude: bool = True,
        dropout: float = 0.1,
        pretrain_epochs: int = 0,
        pretrain_lr: float = 1e-3,
        negatives: int = NEGATIVES,
        tune: Literal["all", "lora"] = "all",
        lora_rank: int = 8,
        balanced: bool = False,
        any_channels: bool = False,
        epochs: int = 60,
        batch_size: int = 32,
        lr: float = 1e-3,
        weight_decay: float = 0.01,
        validation: float = 0.2,
        patience: int | None = 15,
        seed: int = 0,
        device: str = "auto",
        progress: Progress | None = None,
    ):
        self.segment = segment
        self.wavelet = wavelet
        self.dim = dim
        self.layers = layers
        self.heads = heads
        self.kv_heads = kv_heads
        self.hidden = hidden
        self.content_window = content_window
        self.attention = attention
        self.readout = readout
        self.amplitude = amplitude
        self.dropout = dropout
        self.pretrain_epochs = pretrain_epochs
        self.pretrain_lr = pretrain_lr
        self.negatives = negatives
        self.tune = tune
        self.lora_rank = lora_rank
        self.balanced = balanced
        self.any_channels = any_channels
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.weight_decay = weight_decay
        self.validation = validation
        self.patience = patience
        self.seed = seed
        self.device = device
        self.progress = progress

    def fit(self, X: Any, y: Any, unlabelled: Any = None) -> Self:
        """Train on trials, and before that on their signals alone where ``pretrain_epochs`` says so.

        Args:
            X: ``(trials, channels, samples)`` in volts, or ``mne.Epochs``.
            y: one label a trial.
            unlabelled: more trials of the same shape for the first part, of which no label is known. Never give test
                trials here that are to be judged as unseen.

        Raises:
            InputError: unusable trials or labels, or unlabelled trials of another shape.
        """
        if self.tune not in ("all", "lora"):
            raise InputError(f"expected tune to be 'all' or 'lora', got {self.tune!r}")
        if unlabelled is not None and not self.pretrain_epochs:
            raise InputError("unlabelled trials are for pre-training: set pretrain_epochs above 0")
        self._unlabelled, self._pretrained = unlabelled, None
        try:
            return super().fit(X, y)
        finally:
            for name in ("_unlabelled", "_pretrained", "_weights"):  # not part of what was learned
                self.__dict__.pop(name, None)

    def predict_segments(self, X: Any) -> Float[np.ndarray, "trials segments classes"]:
        """Probability of each class after each segment of a trial, from that segment and earlier ones alone."""
        x = torch.from_numpy(np.ascontiguousarray(self._prepare(self._checked(X)), np.float32))
        module: Any = self.module_
        logits = in_batches(module.segment_logits, x, self._device())
        return logits.double().softmax(-1).numpy()

    def predict_recording(self, recording: Any, *, sfreq: float | None = None, step: int = 1) -> Course:
        """Probabilities along a recording of any length: one decision every ``step`` segments.

        Args:
            recording: a :class:`~harken.data.brain.Recording`, or ``(channels, samples)`` in volts.
            sfreq: of an array, hertz.
            step: segments from one decision to the next.

        Raises:
            InputError: another rate or montage than that of the trials, a recording shorter than a trial, or NaN.
        """
        self._check_fitted()
        if not isinstance(recording, Recording):
            data = np.asarray(recording, np.float32)
            rate = sfreq or self.sfreq_
            if data.ndim != 2 or rate is None:
                raise InputError("expected (channels, samples) and its sfreq")
            recording = Recording(data, rate, tuple(str(i + 1) for i in range(len(data))))
        elif self.ch_names_ is not None and recording.ch_names != self.ch_names_ and not self.any_channels:
            raise InputError(f"the detector was fitted on the channels {', '.join(self.ch_names_)}: pick these")
        if self.sfreq_ is not None and recording.sfreq != self.sfreq_:
            raise InputError(
                f"the detector was fitted at {self.sfreq_:g} Hz, the recording has {recording.sfreq:g}: resample it"
            )
        if step < 1:
            raise InputError(f"expected a step of at least 1 segment, got {step}")
        if recording.data.shape[1] < self.samples_:
            raise InputError(
                f"a decision needs {self.samples_} samples, the recording has {recording.data.shape[1]}: "
                "fit on shorter trials"
            )
        windows = np.lib.stride_tricks.sliding_window_view(recording.data, self.samples_, axis=1)
        windows = windows[:, :: step * self.segment].swapaxes(0, 1)
        found = []
        for start in range(0, len(windows), 256):
            found.append(self.predict_proba(windows[start : start + 256]))
            if self.progress is not None:
                self.progress(min(1.0, (start + 256) / len(windows)), "")
        ends = np.arange(len(windows)) * step * self.segment + self.samples_
        return Course(ends / recording.sfreq, np.concatenate(found), self.samples_ / recording.sfreq)

    def retrieval_accuracy(self, X: Any, negatives: int = NEGATIVES) -> float:
        """How often the next segment is picked from among itself and others; chance is ``1 / (1 + negatives)``.

        Asked of the network as pre-training left it, where there was any and the estimator was not loaded from files.
        """
        x = torch.from_numpy(np.ascontiguousarray(self._prepare(self._checked(X)), np.float32))
        module: Any = self.module_
        parts, real = module.cut(x.to(self._device()))
        generator = torch.Generator().manual_seed(self.seed)
        model = getattr(self, "pretrained_", module.model)
        return retrieval_accuracy(model, parts, real, negatives=negatives, generator=generator)

    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        if samples < self.segment:
            raise InputError(f"trials of {samples} samples hold no segment of {self.segment}: take shorter segments")
        config = MVPFormerConfig(
            segment=self.segment,
            wavelet=self.wavelet,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            kv_heads=self.kv_heads,
            hidden=self.hidden,
            classes=classes,
            readout=self.readout,
            attention=self.attention,
            max_segments=samples // self.segment,
            max_channels=max(channels, 128 if self.any_channels else channels),
            content_window=self.content_window,
            dropout=self.dropout,
            amplitude=self.amplitude,
        )
        model = MVPFormer(config)
        pretrained = getattr(self, "_pretrained", None)
        if pretrained is not None:
            model.load_state_dict(pretrained)
        return Segmented(model.adapted(self.lora_rank) if self.tune == "lora" else model)

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials channels _"]:
        prepared = super()._prepare_fit(x)
        self.pretrain_history_: list[dict[str, float]] = []
        if not self.pretrain_epochs:
            return prepared
        signals = prepared
        if self._unlabelled is not None:
            more, _, _ = as_array(self._unlabelled)
            check_trials(more, channels=self.channels_, samples=self.samples_)
            signals = np.concatenate((prepared, self._prepare(more)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            tune, self.tune = self.tune, "all"
            try:
                module: Any = self._build(self.channels_, self.samples_, len(self.classes_)).to(self._device())
            finally:
                self.tune = tune
        self.pretrain_history_ = fit_module(
            module,
            self._contrastive_loss,
            (torch.from_numpy(np.ascontiguousarray(signals, np.float32)),),
            None,
            Budget(
                epochs=self.pretrain_epochs,
                batch_size=self.batch_size,
                lr=self.pretrain_lr,
                weight_decay=0.01,
                schedule="cosine",
                decoupled=True,
                clip_norm=1.0,
            ),
            seed=self.seed,
            on_epoch=self._on_pretrain_epoch,
        )
        self._pretrained, self.pretrained_ = module.model.state_dict(), module.model
        return prepared

    def _contrastive_loss(self, module: nn.Module, x: Tensor) -> Tensor:
        parts, real = module.cut(x)  # type: ignore[operator]
        return next_segment_loss(module.model, parts, real, negatives=self.negatives)  # type: ignore[arg-type]

    def _on_pretrain_epoch(self, epoch: int, entry: dict[str, float]) -> None:
        if self.progress is not None:
            self.progress((epoch + 1) / self.pretrain_epochs, f"without labels: loss {entry['loss']:.3f}")

    def _start(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        x, labels = super()._start(X, y)
        counts = np.bincount(labels, minlength=len(self.classes_))
        weights = len(labels) / (len(counts) * counts) if self.balanced else np.ones(len(counts))
        self._weights = torch.from_numpy(weights).float().to(self._device())
        return x, labels

    def _loss(self, module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(module(x), y, weight=self._weights)

    def _budget(self) -> Budget:
        return Budget(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            weight_decay=self.weight_decay,
            patience=self.patience,
            schedule="cosine",
            decoupled=True,
            clip_norm=1.0,
        )

    def _checked(self, X: Any) -> Float[np.ndarray, "trials channels samples"]:
        if not self.any_channels:
            return super()._checked(X)
        self._check_fitted()
        x, _, _ = as_array(X)
        check_trials(x, samples=self.samples_)
        return x

    def _restore(self, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
        super()._restore(arrays, values)
        self.pretrain_history_ = []


class Segmented(nn.Module):
    """MVPFormer on whole trials, cut into its segments.

    Shape: ``(batch, channels, samples)`` to logits ``(batch, classes)``.
    """

    def __init__(self, model: MVPFormer):
        super().__init__()
        self.model = model

    def forward(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch classes"]:
        parts, real = self.cut(x)
        return self.model(parts, mask=real)

    def segment_logits(self, x: Float[Tensor, "batch channels samples"]) -> Float[Tensor, "batch segments classes"]:
        """Logits after every segment."""
        parts, real = self.cut(x)
        return self.model.classify_segments(self.model.hidden(self.model.encode(parts), mask=real), mask=real)

    def cut(
        self, x: Float[Tensor, "batch channels samples"]
    ) -> tuple[Float[Tensor, "batch segments channels segment"], Bool[Tensor, "batch segments channels"] | None]:
        """Segments, and which channels are there; None where all are."""
        length = self.model.config.segment
        # in training the grid of segments lies anywhere, so that no wave is always cut at the same place
        start = int(torch.randint(length, ())) if self.training and x.shape[-1] >= 3 * length else 0
        count = (x.shape[-1] - start) // length
        parts = x[..., start : start + count * length].unflatten(-1, (count, length)).transpose(1, 2)
        is_flat = x.amax(-1) == x.amin(-1)
        return parts, (~is_flat)[:, None].expand(-1, count, -1) if bool(is_flat.any()) else None
