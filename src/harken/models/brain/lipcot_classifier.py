"""LiPCoT as a scikit-learn classifier: words, filling gaps, then classes (arXiv 2408.07292)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from harken.errors import InputError
from harken.models.brain._estimator import NeuralClassifier, Progress
from harken.models.brain._fitting import Budget, fit_module
from harken.models.brain.lipcot import LiPCoT, LiPCoTConfig
from harken.models.brain.lipcot_tokenizer import Features, LiPCoTTokenizer


class LiPCoTClassifier(NeuralClassifier):
    """Trials or ready sentences to classes: tokenise, learn to fill gaps without labels, then learn the classes.

    Tokenizer and pre-training see training trials alone, and further ones without labels that :meth:`fit` is given.

    Args:
        ready: trials are sentences already, ``(trials, words)`` of whole numbers from 0; a negative one is missing.
        vocabulary: words.
        order, warp, features, window, sfreq: of :class:`harken.models.brain.LiPCoTTokenizer`, for raw trials; a tenth
            of a trial is a window when None.
        dim, layers, heads, hidden: of the encoder; the paper's 256, 6, 1 and 3072 want more trials than most have.
        attention: any bidirectional mechanism; ``relative`` as in the paper.
        dropout: in training.
        pretrain_epochs: passes over the sentences with gaps; 0 begins with random weights.
        pretrain_lr: then.
        epochs, batch_size, lr, weight_decay: of AdamW with a cosine schedule, for the classes.
        validation, patience: the last share of each class decides when to stop; 0 runs all epochs.
        seed: of weights, order, gaps and dropout; and of k-means.
        device: ``cpu``, ``cuda`` or ``auto``.
        progress: called as ``progress(share done, note)``.

    Attributes:
        tokenizer_: the fitted :class:`~harken.models.brain.LiPCoTTokenizer`; None for ready sentences.
        pretraining_: losses of the pre-training, epoch by epoch.

    >>> words = np.random.default_rng(0).integers(0, 8, (20, 6))
    >>> model = LiPCoTClassifier(ready=True, vocabulary=8, dim=16, hidden=32, epochs=2, pretrain_epochs=2)
    >>> model.fit(words, np.arange(20) % 2).predict(words[:3]).shape
    (3,)
    """

    def __init__(
        self,
        ready: bool = False,
        vocabulary: int = 64,
        order: int = 16,
        warp: float = 0.2,
        features: Features = "lpc",
        window: int | None = None,
        sfreq: float = 1.0,
        dim: int = 64,
        layers: int = 2,
        heads: int = 2,
        hidden: int = 256,
        attention: str = "relative",
        dropout: float = 0.1,
        pretrain_epochs: int = 60,
        pretrain_lr: float = 1e-3,
        epochs: int = 40,
        batch_size: int = 16,
        lr: float = 3e-4,
        weight_decay: float = 0.01,
        validation: float = 0.2,
        patience: int | None = None,
        seed: int = 0,
        device: str = "cpu",
        progress: Progress | None = None,
    ):
        self.ready = ready
        self.vocabulary = vocabulary
        self.order = order
        self.warp = warp
        self.features = features
        self.window = window
        self.sfreq = sfreq
        self.dim = dim
        self.layers = layers
        self.heads = heads
        self.hidden = hidden
        self.attention = attention
        self.dropout = dropout
        self.pretrain_epochs = pretrain_epochs
        self.pretrain_lr = pretrain_lr
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
        """Tokenise, pre-train, fine-tune.

        Args:
            X: ``(trials, channels, samples)`` in volts, ``mne.Epochs``, or sentences ``(trials, words)``.
            y: one label a trial.
            unlabelled: more training trials, or sentences, for the pre-training; never test trials.

        Raises:
            InputError: unusable trials or sentences, labels that do not fit, or one class only.
        """
        self._unlabelled = unlabelled
        try:
            return super().fit(X, y)
        finally:
            del self._unlabelled
            self.__dict__.pop("_corpus", None)

    def words(self, X: Any) -> Int[np.ndarray, "trials words"]:
        """The sentences that the encoder reads."""
        return self._words(self._checked(X))

    def _prepare_fit(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials 1 words"]:
        self.tokenizer_ = None
        if not self.ready:
            window = self.window or max(1, x.shape[2] // 10)
            self.tokenizer_ = LiPCoTTokenizer(
                self.order, self.warp, self.vocabulary, self.features, window, self.sfreq, seed=self.seed
            ).fit(x)
        words = self._words(x)
        more = [] if self._unlabelled is None else [self._words(self._as_trials(self._unlabelled))]
        if more and more[0].shape[1] != words.shape[1]:
            raise InputError(f"sentences of {words.shape[1]} words, and unlabelled ones of {more[0].shape[1]}")
        self._corpus = torch.from_numpy(np.concatenate([words, *more]))
        return words[:, None].astype(np.float32)

    def _prepare(self, x: Float[np.ndarray, "trials channels samples"]) -> Float[np.ndarray, "trials 1 words"]:
        return self._words(x)[:, None].astype(np.float32)

    def _words(self, x: np.ndarray) -> Int[np.ndarray, "trials words"]:
        if self.tokenizer_ is not None:
            return self.tokenizer_.transform(x)
        if x.shape[1] != 1 or (x != np.round(x)).any() or x.max() >= self.vocabulary:
            raise InputError(
                f"expected sentences (trials, words) of whole numbers below vocabulary={self.vocabulary}; "
                "raw trials need ready=False"
            )
        return x[:, 0].astype(np.int64)

    def _as_trials(self, X: Any) -> np.ndarray:
        from harken.data.brain import as_array, check_trials

        x, _, _ = as_array(X)
        check_trials(x, channels=self.channels_)
        return x

    def _build(self, channels: int, samples: int, classes: int) -> nn.Module:
        config = LiPCoTConfig(
            vocabulary=self.vocabulary,
            classes=classes,
            length=samples,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            hidden=self.hidden,
            attention=self.attention,
            dropout=self.dropout,
        )
        return _Sentences(LiPCoT(config))

    def _build_restored(self) -> nn.Module:
        length = self.samples_
        if self.tokenizer_ is not None:
            length = self.tokenizer_.windows(self.samples_) * self.channels_
        return self._build(1, length, len(self.classes_))

    def _pretrain(self, module: nn.Module) -> None:
        share = self.pretrain_epochs / (self.pretrain_epochs + self.epochs)

        def told(epoch: int, entry: dict[str, float]) -> None:
            if self.progress is not None:
                done = share * (epoch + 1) / self.pretrain_epochs
                self.progress(done, f"gaps: loss {entry['loss']:.3f}")

        budget = Budget(
            epochs=self.pretrain_epochs, batch_size=self.batch_size, lr=self.pretrain_lr, weight_decay=0.01,
            patience=None, schedule="cosine", decoupled=True, clip_norm=1.0,
        )  # fmt: skip
        self.pretraining_ = fit_module(
            module, lambda made, words: made.model.gap_loss(words), (self._corpus,), None, budget, seed=self.seed,
            on_epoch=told,
        )  # fmt: skip

    def _before_fit(self, module: nn.Module) -> None:
        self.pretraining_ = []
        if self.pretrain_epochs:
            self._pretrain(module)

    def _budget(self) -> Budget:
        return Budget(
            epochs=self.epochs, batch_size=self.batch_size, lr=self.lr, weight_decay=self.weight_decay,
            patience=self.patience, schedule="cosine", decoupled=True, clip_norm=1.0,
        )  # fmt: skip

    def _on_epoch(self, epoch: int, entry: dict[str, float]) -> None:
        if self.progress is not None:
            total = self.pretrain_epochs + self.epochs
            self.progress((self.pretrain_epochs + epoch + 1) / total, f"classes: loss {entry['loss']:.3f}")

    def _prepared_state(self) -> dict[str, np.ndarray]:
        return {} if self.tokenizer_ is None else self.tokenizer_._fitted()[0]

    def _restore_prepared(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.tokenizer_ = None
        if not self.ready:
            window = self.window or max(1, self.samples_ // 10)
            self.tokenizer_ = LiPCoTTokenizer(
                self.order, self.warp, self.vocabulary, self.features, window, self.sfreq, seed=self.seed
            )
            self.tokenizer_._restore(arrays, {"channels": self.channels_})


class _Sentences(nn.Module):
    """The encoder on the float tensors that estimators batch: ``(batch, 1, words)``."""

    def __init__(self, model: LiPCoT):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x[:, 0].long())
