"""How well decoders of trials do on recordings they have not seen, beside classical ones and chance."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from harken.data.brain import Trials, check_trials, flat_channels
from harken.data.brain_splits import Split, split_trials
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.models._base import first_line
from harken.score.brain import cohen_kappa

MakeEstimator = Callable[[int], Any]
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class DecoderScore:
    """What one decoder reached.

    Attributes:
        name: of the decoder.
        accuracy: by fold and seed, ``(folds, seeds)``.
        balanced_accuracy, kappa: the same, for unequal classes, and corrected for chance.
        confusion: trials by true and named class, the mean over seeds.
    """

    name: str
    accuracy: Float[np.ndarray, "folds seeds"]
    balanced_accuracy: Float[np.ndarray, "folds seeds"]
    kappa: Float[np.ndarray, "folds seeds"]
    confusion: Float[np.ndarray, "classes classes"]

    def as_json(self) -> dict[str, Any]:
        """Means, spreads, and every fold."""
        return {
            "decoder": self.name,
            "accuracy": float(self.accuracy.mean()),
            "accuracy_std_over_seeds": float(self.accuracy.mean(0).std()),
            "accuracy_std_over_folds": float(self.accuracy.mean(1).std()),
            "balanced_accuracy": float(self.balanced_accuracy.mean()),
            "kappa": float(self.kappa.mean()),
            "accuracy_by_fold_and_seed": self.accuracy.tolist(),
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True)
class Evaluation:
    """Decoders on the same folds.

    Attributes:
        scores: the decoder that was asked about, then the baselines.
        classes: their names.
        split: how training and test trials were parted.
        chance: accuracy of naming the commonest class of the training trials, mean over folds.
        trials: how many were judged.
        notes: what a reader should know about the data.
    """

    scores: tuple[DecoderScore, ...]
    classes: tuple[str, ...]
    split: str
    chance: float
    trials: int
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "split": self.split,
            "classes": list(self.classes),
            "trials": self.trials,
            "chance": self.chance,
            "decoders": [score.as_json() for score in self.scores],
            "notes": list(self.notes),
        }


def evaluate(
    decoders: Mapping[str, MakeEstimator],
    trials: Trials,
    *,
    split: str = "within-session",
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    splits: Sequence[Split] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Fit and judge decoders fold by fold; nothing of a test trial is seen before it is judged.

    Args:
        decoders: name to a function of a seed that makes a fresh estimator; one whose result does not depend on the
            seed may carry the attribute ``deterministic = True`` and is then run once a fold.
        trials: what is learned and judged.
        split: ``within-session``, ``cross-session`` or ``cross-subject`` (:mod:`harken.data.brain_splits`).
        folds: of ``within-session``.
        seeds: each decoder is fitted once with each.
        splits: index pairs of the caller's own instead.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: the trials do not allow the split, or a fold lacks a class.
    """
    check_trials(trials.x)
    if len(np.unique(trials.y)) < 2:
        raise InputError("expected trials of at least two classes, got one class")
    parts = list(splits) if splits is not None else split_trials(trials, split, folds)
    _check_parts(trials, parts)
    scores, done, total = [], 0, len(decoders) * len(parts) * len(seeds)
    for name, make in decoders.items():
        shape = (len(parts), len(seeds))
        accuracy, balanced, kappa = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        confusion = np.zeros((len(trials.classes), len(trials.classes)))
        for row, (train, test) in enumerate(parts):
            named = None
            for column, seed in enumerate(seeds):
                if progress is not None:
                    progress(done / total, f"{name}, fold {row + 1} of {len(parts)}, seed {seed}")
                if named is None or not getattr(make, "deterministic", False):
                    named = _learned_and_named(name, make(seed), trials, train, test)
                table = confusion_table(trials.y[test], named, len(trials.classes))
                accuracy[row, column] = np.trace(table) / table.sum()
                balanced[row, column] = _balanced(table)
                kappa[row, column] = cohen_kappa(trials.y[test], named)
                confusion += table / len(seeds)
                done += 1
        scores.append(DecoderScore(name, accuracy, balanced, kappa, confusion))
    chance = [float((trials.y[test] == np.bincount(trials.y[train]).argmax()).mean()) for train, test in parts]
    judged = sum(len(test) for _, test in parts)
    what = split if splits is None else "given"
    return Evaluation(tuple(scores), trials.classes, what, float(np.mean(chance)), judged, tuple(_notes(trials)))


def _learned_and_named(
    name: str, estimator: Any, trials: Trials, train: Int[np.ndarray, " train"], test: Int[np.ndarray, " test"]
) -> Int[np.ndarray, " test"]:
    """The labels that a decoder gives to test trials after it was fitted on others."""
    grouped = "groups" in inspect.signature(estimator.fit).parameters
    try:
        estimator.fit(trials.x[train], trials.y[train], **({"groups": trials.subject[train]} if grouped else {}))
        return _named_by_subject(estimator, trials, test)
    except InputError:
        raise
    except ValueError as error:  # of a solver that cannot: flat channels, trials of one sample
        raise InputError(f"{name} cannot learn from these trials, leave it out: {first_line(error)}") from None


def _named_by_subject(estimator: Any, trials: Trials, test: Int[np.ndarray, " test"]) -> Int[np.ndarray, " test"]:
    """Subject by subject: what a decoder makes of a subject must not depend on who else is judged."""
    named = np.zeros(len(test), np.int64)
    for subject in np.unique(trials.subject[test]):
        here = trials.subject[test] == subject
        named[here] = estimator.predict(trials.x[test[here]])
    return named


def baseline_decoders(names: Sequence[str], sfreq: float) -> dict[str, MakeEstimator]:
    """The baselines of :func:`harken.models.brain.baselines.baseline` as :func:`evaluate` takes them."""
    from harken.models.brain.baselines import baseline

    made: dict[str, MakeEstimator] = {}
    for name in names:
        baseline(name, sfreq)  # an unknown name, or a missing package, before hours of training

        def make(seed: int, name: str = name) -> Any:
            return baseline(name, sfreq)

        make.deterministic = True  # type: ignore[attr-defined]
        made[name] = make
    return made


def named_decoders(names: Sequence[str], sfreq: float) -> dict[str, MakeEstimator]:
    """Baselines and classifiers of :mod:`harken.models.brain` by name, the latter with their defaults.

    Raises:
        InputError: nothing that classifies trials has that name.
    """
    from harken.models import brain
    from harken.models.brain.baselines import BASELINES

    made: dict[str, MakeEstimator] = {}
    for name in (given.strip() for given in names):
        if name in BASELINES:
            made.update(baseline_decoders([name], sfreq))
        elif name in brain.list_estimators() and hasattr(getattr(brain, name), "predict_proba"):
            known = inspect.signature(getattr(brain, name)).parameters

            def make(seed: int, name: str = name, known: Any = known) -> Any:
                given = {"seed": seed, "sfreq": sfreq}
                return getattr(brain, name)(**{key: value for key, value in given.items() if key in known})

            made[name] = make
        else:
            choices = [*BASELINES, *(n for n in brain.list_estimators() if n.endswith("Classifier"))]
            raise InputError(f"no decoder named '{name}': one of {', '.join(choices)}")
    return made


def confusion_table(
    true: Int[np.ndarray, " trials"], named: Int[np.ndarray, " trials"], classes: int
) -> Float[np.ndarray, "classes classes"]:
    """Counts by true class (rows) and named class (columns)."""
    table = np.zeros((classes, classes))
    np.add.at(table, (true, named), 1)
    return table


def draw_evaluation(evaluation: Evaluation, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Accuracy of every decoder with its folds beside chance, and the first decoder's confusions.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(9.5, 4)
    bars, table = figure.subplots(1, 2, width_ratios=[1.3, 1])
    draw_accuracies(evaluation, bars)
    draw_confusion(evaluation, table)
    figure.suptitle(title or f"{evaluation.split}, {evaluation.trials} trials", fontsize=11)
    save_figure(figure, path)


def draw_accuracies(evaluation: Evaluation, bars: Any) -> None:
    """Every decoder's accuracy with its folds beside chance, on axes of matplotlib."""
    names = [score.name for score in evaluation.scores]
    means = [float(score.accuracy.mean()) for score in evaluation.scores]
    bars.bar(names, means, color=["#30506a"] + ["#a9b8c4"] * (len(names) - 1), width=0.65)
    for place, score in enumerate(evaluation.scores):
        folds = score.accuracy.mean(1)
        spread = (np.arange(len(folds)) - (len(folds) - 1) / 2) * 0.4 / max(1, len(folds))
        bars.plot(place + spread, folds, "o", color="#d07a2c", markersize=3.5)
        bars.text(place, 0.02, f"{means[place]:.3f}", ha="center", color="white" if place == 0 else "black", fontsize=8)
    bars.axhline(evaluation.chance, color="#888888", linestyle="--", linewidth=1)
    bars.text(len(names) - 0.5, evaluation.chance, " chance", va="bottom", ha="right", fontsize=8, color="#666666")
    bars.set(ylim=(0, 1), ylabel="accuracy (dots: folds)")
    bars.tick_params(axis="x", labelsize=8)


def draw_confusion(evaluation: Evaluation, table: Any) -> None:
    """The first decoder's confusions, on axes of matplotlib."""
    rows = evaluation.scores[0].confusion
    share = rows / np.maximum(rows.sum(1, keepdims=True), 1)
    table.imshow(share, cmap="Blues", vmin=0, vmax=1)
    shown = [name[:12] for name in evaluation.classes]
    table.set_xticks(range(len(shown)), shown, rotation=45 if max(map(len, shown)) > 4 else 0, fontsize=8)
    table.set_yticks(range(len(shown)), shown, fontsize=8)
    table.set(xlabel="named", ylabel="true", title=evaluation.scores[0].name)
    if len(shown) <= 12:
        for (row, column), value in np.ndenumerate(share):
            colour = "white" if value > 0.5 else "black"
            table.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=colour)


def _check_parts(trials: Trials, parts: Sequence[Split]) -> None:
    for number, (train, test) in enumerate(parts):
        if np.intersect1d(train, test).size or not len(test):
            raise InputError(f"fold {number + 1} tests on trials it trains on, or on none")
        lacking = sorted(set(trials.y[test].tolist()) - set(trials.y[train].tolist()))
        if lacking:
            raise InputError(f"fold {number + 1} has no training trial of class '{trials.classes[lacking[0]]}'")


def _balanced(table: Float[np.ndarray, "classes classes"]) -> float:
    counts = table.sum(1)
    return float((np.diag(table)[counts > 0] / counts[counts > 0]).mean())


def _notes(trials: Trials) -> list[str]:
    notes = []
    if flat := flat_channels(trials.x):
        notes.append(f"channels without a signal: {', '.join(trials.ch_names[i] for i in flat)}")
    counts = np.bincount(trials.y, minlength=len(trials.classes))
    if counts.min() * 2 < counts.max():
        notes.append("the classes are of unequal size: read the balanced accuracy")
    return notes
