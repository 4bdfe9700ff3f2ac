"""Trials in, words out: what each word sounds like, who says it when, and how well classes follow from words."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from harken.data.brain import Trials
from harken.data.brain_splits import Split
from harken.errors import InputError, OutputError
from harken.figures import new_figure, save_figure
from harken.tasks.brain_evaluation import Evaluation, MakeEstimator, Progress, baseline_decoders, evaluate
from harken.whole_files import whole_file

LEAKY = "segments at random (leaky)"


@dataclass(frozen=True)
class Tokens:
    """Words of trials.

    Attributes:
        tokenizer: fitted on all of the trials: a description of them, not a test.
        words: ``(trials, windows, channels)``.
        y: which of ``classes``, ``(trials,)``.
        classes: their names.
        frequencies: hertz.
        spectra: power density of each word, ``(vocabulary, bins)``; None where words have none.
    """

    tokenizer: Any
    words: Int[np.ndarray, "trials windows channels"]
    y: Int[np.ndarray, " trials"]
    classes: tuple[str, ...]
    frequencies: Float[np.ndarray, " bins"]
    spectra: Float[np.ndarray, "vocabulary bins"] | None

    def shares(self) -> Float[np.ndarray, "classes vocabulary"]:
        """How often each class says each word."""
        counts = [
            np.bincount(self.words[self.y == label].ravel(), minlength=self.tokenizer.vocabulary)
            for label in range(len(self.classes))
        ]
        table = np.stack(counts).astype(float)
        return table / np.maximum(table.sum(1, keepdims=True), 1)

    def commonest(self) -> Int[np.ndarray, " vocabulary"]:
        """Words, the most frequent first."""
        return np.argsort(np.bincount(self.words.ravel(), minlength=self.tokenizer.vocabulary), kind="stable")[::-1]

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "trials": len(self.words),
            "windows": self.words.shape[1],
            "channels": self.words.shape[2],
            "vocabulary": self.tokenizer.vocabulary,
            "classes": list(self.classes),
            "shares": self.shares().tolist(),
            "commonest": self.commonest()[:10].tolist(),
            "peak_hz": None if self.spectra is None else self.frequencies[self.spectra.argmax(1)].tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """As an ``.npz`` with ``words`` ``(trials, windows * channels)``, ``y`` and ``classes``, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        arrays: dict[str, Any] = {
            "words": self.words.reshape(len(self.words), -1).astype(np.int32),
            "y": self.y,
            "classes": np.array(self.classes),
        }
        try:
            with whole_file(Path(path)) as partial, partial.open("wb") as file:
                np.savez_compressed(file, **arrays)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror or error}") from None


def tokenise(trials: Trials, *, window: float = 1.0, **parameters: Any) -> Tokens:
    """Words of all windows of all trials.

    Args:
        trials: what is cut into windows.
        window: seconds of one.
        **parameters: of :class:`harken.models.brain.LiPCoTTokenizer`.

    Raises:
        InputError: windows that do not fit into the trials, or fewer of them than words.
    """
    from harken.models.brain.lipcot_tokenizer import LiPCoTTokenizer

    samples = window_samples(trials, window)
    tokenizer = LiPCoTTokenizer(window=samples, sfreq=trials.sfreq, **parameters)
    words = tokenizer.fit_transform(trials)
    frequencies = np.linspace(0, trials.sfreq / 2, 257)
    spectra = None if tokenizer.features == "poles" else tokenizer.spectra(frequencies)
    shaped = words.reshape(len(words), -1, trials.x.shape[1])
    return Tokens(tokenizer, shaped, trials.y, trials.classes, frequencies, spectra)


def window_samples(trials: Trials, window: float) -> int:
    """Seconds as samples.

    Raises:
        InputError: longer than the trials, or nothing.
    """
    samples = round(window * trials.sfreq)
    if not 1 <= samples <= trials.x.shape[2]:
        length = trials.x.shape[2] / trials.sfreq
        raise InputError(f"a window of {window:g} s does not fit into trials of {length:.3g} s: give --window")
    return samples


def classify_words(
    trials: Trials,
    *,
    window: float = 1.0,
    tokenizer: Mapping[str, Any] | None = None,
    network: Mapping[str, Any] | None = None,
    split: str = "within-session",
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    baselines: Sequence[str] = ("band-power",),
    leaky: bool = False,
    progress: Progress | None = None,
) -> list[Evaluation]:
    """LiPCoT's encoder and a bag of its words, beside classical decoders; all is learned from training trials alone.

    Args:
        trials: what is learned and judged.
        window: seconds of a window.
        tokenizer, network: parameters of the tokenizer and of the encoder.
        split, folds, seeds: as for :func:`harken.tasks.brain_evaluation.evaluate`.
        baselines: classical decoders.
        leaky: judge a second time with trials parted at random, so that those of one person are on both sides; for
            comparison with numbers that were made so, and never for one's own.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: the trials do not allow the split.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    from harken.models.brain.lipcot_classifier import LiPCoTClassifier
    from harken.models.brain.lipcot_tokenizer import LiPCoTTokenizer

    shared = {"window": window_samples(trials, window), "sfreq": trials.sfreq, **dict(tokenizer or {})}

    def encoder(seed: int) -> Any:
        return LiPCoTClassifier(**shared, **dict(network or {}), seed=seed)

    def bag(seed: int) -> Any:
        words = LiPCoTTokenizer(**shared, seed=seed, starts=3)
        counts = FunctionTransformer(word_counts, kw_args={"vocabulary": words.vocabulary})
        return make_pipeline(words, counts, StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))

    decoders: dict[str, MakeEstimator] = {
        "lipcot": encoder, "word counts": bag, **baseline_decoders(baselines, trials.sfreq),
    }  # fmt: skip
    found: list[Evaluation] = []
    plans: list[tuple[str, list[Split] | None]] = [(split, None)]
    if leaky:
        plans.append((LEAKY, random_folds(trials, folds)))
    for number, (name, parts) in enumerate(plans):

        def told(done: float, note: str, number: int = number) -> None:
            if progress is not None:
                progress((number + done) / len(plans), note)

        made = evaluate(decoders, trials, split=split, folds=folds, seeds=seeds, splits=parts, progress=told)
        found.append(made if parts is None else _renamed(made, name))
    return found


def random_folds(trials: Trials, folds: int) -> list[Split]:
    """Trials parted at random, as many of each class in each part: leaky wherever trials of one person are alike."""
    from sklearn.model_selection import StratifiedKFold

    if np.bincount(trials.y, minlength=len(trials.classes)).min() < folds:
        raise InputError(f"a class has fewer trials than there are folds, {folds}")
    parts = StratifiedKFold(folds, shuffle=True, random_state=0).split(trials.y, trials.y)
    return [(train, test) for train, test in parts]


def word_counts(words: Int[np.ndarray, "trials words"], vocabulary: int) -> Float[np.ndarray, "trials vocabulary"]:
    """How often each trial says each word."""
    return np.stack([np.bincount(row, minlength=vocabulary) for row in words]).astype(np.float64)


def draw_tokens(
    tokens: Tokens, path: str | os.PathLike[str], *, evaluations: Sequence[Evaluation] = (), title: str = ""
) -> None:
    """Who says which word, when, what the commonest ones sound like, and what they are good for.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    panels = 3 + bool(evaluations)
    figure = new_figure(4.2 * panels, 4)
    axes = figure.subplots(1, panels)
    order, shares = tokens.commonest(), tokens.shares()
    bottom = np.zeros(len(order))
    for share, name in zip(shares[:, order], tokens.classes, strict=True):
        axes[0].bar(np.arange(len(order)), share, bottom=bottom, width=1.0, label=name[:14])
        bottom += share
    axes[0].set(xlabel="words, the commonest first", ylabel="share of each class, stacked")
    axes[0].legend(fontsize=7)
    _draw_time(tokens, axes[1], order)
    if tokens.spectra is not None:
        for word in order[:6]:
            axes[2].plot(tokens.frequencies, 10 * np.log10(tokens.spectra[word]), linewidth=1, label=f"word {word}")
        axes[2].set(xlabel="Hz", ylabel="dB, power density", title="the six commonest")
        axes[2].legend(fontsize=7)
    else:
        axes[2].axis("off")
    if evaluations:
        _draw_evaluations(evaluations, axes[3])
    figure.suptitle(title or f"{tokens.words.size} words of {len(tokens.words)} trials", fontsize=11)
    save_figure(figure, path)


def _draw_time(tokens: Tokens, axes: Any, order: Int[np.ndarray, " vocabulary"]) -> None:
    """Words over windows of the first channel (over channels where there is one window), trials sorted by class."""
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    over_channels = tokens.words.shape[1] == 1
    words = tokens.words[:, 0] if over_channels else tokens.words[..., 0]
    shown = np.argsort(tokens.y, kind="stable")
    image = axes.imshow(rank[words[shown]], aspect="auto", interpolation="nearest", cmap="viridis")
    axes.figure.colorbar(image, ax=axes, label="word, by how common it is")
    edges = np.flatnonzero(np.diff(tokens.y[shown])) + 0.5
    for edge in edges:
        axes.axhline(edge, color="white", linewidth=1)
    axes.set(xlabel="channel" if over_channels else "window (first channel)", ylabel="trial, by class")


def _draw_evaluations(evaluations: Sequence[Evaluation], axes: Any) -> None:
    width = 0.8 / len(evaluations)
    names = [score.name for score in evaluations[0].scores]
    for number, found in enumerate(evaluations):
        means = [float(score.accuracy.mean()) for score in found.scores]
        places = np.arange(len(names)) + (number - (len(evaluations) - 1) / 2) * width
        axes.bar(places, means, width=width, label=found.split, color=("#30506a", "#d9a27a")[number % 2])
        for place, mean in zip(places, means, strict=True):
            axes.text(place, mean, f"{mean:.2f}", ha="center", va="bottom", fontsize=7)
    axes.axhline(evaluations[0].chance, color="#888888", linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set(ylim=(0, 1.1), ylabel="accuracy")
    axes.legend(fontsize=7)


def _renamed(found: Evaluation, split: str) -> Evaluation:
    from dataclasses import replace

    return replace(found, split=split)
