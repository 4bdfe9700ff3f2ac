"""Spellers judged by how long they look: accuracy and bits a minute of each method, for each length of the window."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from harken.data.brain_splits import Split, within_session
from harken.data.ssvep import SSVEPTrials
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.score.brain import GAZE_SHIFT, cohen_kappa, information_transfer_rate

Method = Literal["cca", "fbcca", "fbcca-calibrated", "trca", "etrca", "dnn"]
METHODS: tuple[Method, ...] = get_args(Method)
_NAMES = {
    "cca": "CCA",
    "fbcca": "FBCCA",
    "fbcca-calibrated": "FBCCA, calibrated",
    "trca": "TRCA",
    "etrca": "ensemble TRCA",
    "dnn": "SSVEP-DNN",
}
_TRAINED = ("fbcca-calibrated", "trca", "etrca", "dnn")
Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Settings:
    """What the methods are run with.

    Attributes:
        bands, harmonics: of the filter bank and of the references.
        gaze_shift: seconds between selections, for the bits a minute.
        network: options of :class:`~harken.models.brain.ssvep_classifier.SSVEPClassifier`.
    """

    bands: int = 3
    harmonics: int = 3
    gaze_shift: float = GAZE_SHIFT
    network: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class WindowResult:
    """One method at one length of the window.

    Attributes:
        method, window: which, and seconds.
        accuracy: of every person, fold and seed: share of the trials named rightly.
        kappa: agreement beyond chance over all trials, the mean over seeds.
        classes, gaze_shift: what the rate in bits depends on.
        seeds: how many; those of a method that draws nothing are one.
    """

    method: str
    window: float
    accuracy: tuple[float, ...]
    kappa: float
    classes: int
    gaze_shift: float
    seeds: int

    @property
    def bits(self) -> list[float]:
        """Bits a minute of every entry; their mean is what papers report."""
        found = information_transfer_rate(self.accuracy, self.classes, self.window, gaze_shift=self.gaze_shift)
        return found.tolist()

    def as_json(self) -> dict[str, Any]:
        """Means and standard deviations over people, folds and seeds."""
        return {
            "method": self.method,
            "window_s": self.window,
            "accuracy": statistics.mean(self.accuracy),
            "accuracy_spread": _spread(self.accuracy),
            "itr_bits_per_minute": statistics.mean(self.bits),
            "itr_spread": _spread(self.bits),
            "kappa": self.kappa,
            "entries": len(self.accuracy),
            "seeds": self.seeds,
        }


@dataclass(frozen=True)
class SSVEPReport:
    """All methods at all windows, and what they are to be compared with."""

    results: tuple[WindowResult, ...]
    trials: int
    classes: tuple[str, ...]
    chance: float
    largest_class: float
    split: str

    def at(self, method: str, window: float) -> WindowResult:
        """One of the results."""
        return next(one for one in self.results if one.method == method and abs(one.window - window) < 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "trials": self.trials,
            "classes": list(self.classes),
            "chance": self.chance,
            "share_of_largest_class": self.largest_class,
            "split": self.split,
            "gaze_shift_s": self.results[0].gaze_shift,
            "results": [one.as_json() for one in self.results],
        }


def evaluate_windows(
    trials: SSVEPTrials,
    windows: Sequence[float],
    methods: Sequence[str] = ("fbcca", "etrca"),
    *,
    settings: Settings | None = None,
    seeds: Sequence[int] = (0,),
    progress: Progress | None = None,
) -> SSVEPReport:
    """Judge methods on sessions they have not learned from, one window after the other.

    A session (a block of a speller, a recording) is left out in turn, of all people at once; with a single session,
    stretches of neighbouring trials are. Templates are a person's own; the network learns from everybody and then,
    where there are several people, a copy from each.

    Args:
        trials: each from the answer of the cortex on.
        windows: seconds, from the start of the trials.
        methods: of :data:`METHODS`.
        settings: shared by them.
        seeds: of the network; the others draw nothing.
        progress: told the share done, and what is being done.

    Raises:
        InputError: a method or window that cannot be, or too few trials.
    """
    settings = settings or Settings()
    if unknown := [name for name in methods if name not in METHODS]:
        raise InputError(f"no method named '{unknown[0]}': one of {', '.join(METHODS)}")
    if not windows or not methods:
        raise InputError("expected at least one window and one method")
    if not seeds:
        raise InputError("expected at least one seed")
    folds, split = _folds(trials)
    jobs = [(method, seed) for method in methods for seed in (seeds if method == "dnn" else seeds[:1])]
    found: list[WindowResult] = []
    total, done = len(windows) * len(jobs) * len(folds), 0
    for window in windows:
        cut = trials.window(window)
        for method in methods:
            accuracies: list[float] = []
            kappas: list[float] = []
            own_seeds = seeds if method == "dnn" else seeds[:1]
            for seed in own_seeds:
                predicted = np.full(len(cut), -1)
                for train, test in folds:
                    predicted[test] = _predict(method, cut.select(train), cut.select(test), settings, seed)
                    right = predicted[test] == cut.y[test]
                    people = cut.subject[test]
                    accuracies += [float(right[people == person].mean()) for person in np.unique(people)]
                    done += 1
                    if progress is not None:
                        progress(done / total, f"{_NAMES[method]}, {window:g} s")
                kappas.append(cohen_kappa(cut.y, predicted))
            found.append(
                WindowResult(
                    method,
                    float(window),
                    tuple(accuracies),
                    statistics.mean(kappas),
                    len(cut.classes),
                    settings.gaze_shift,
                    len(own_seeds),
                )
            )
    shares = np.bincount(trials.y, minlength=len(trials.classes)) / len(trials)
    return SSVEPReport(tuple(found), len(trials), trials.classes, 1 / len(trials.classes), float(shares.max()), split)


def _folds(trials: SSVEPTrials) -> tuple[list[Split], str]:
    sessions = np.unique(trials.session)
    if len(sessions) == 1:
        return within_session(trials), "stretches of neighbouring trials of one session"
    folds = [(np.flatnonzero(trials.session != one), np.flatnonzero(trials.session == one)) for one in sessions]
    return folds, "one session left out"


def _predict(method: str, train: SSVEPTrials, test: SSVEPTrials, settings: Settings, seed: int) -> np.ndarray:
    """Numbers of the classes of test trials."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from harken.models.brain.ssvep import CCAClassifier, FBCCAClassifier
    from harken.models.brain.ssvep_classifier import SSVEPClassifier
    from harken.models.brain.trca import TRCAClassifier

    bands, harmonics, sfreq = settings.bands, settings.harmonics, test.sfreq
    if method == "cca":
        return CCAClassifier(test.frequencies, sfreq, harmonics=harmonics).fit(train.x, train.y).predict(test.x)
    if method == "dnn":
        people = train.subject if len(np.unique(train.subject)) > 1 else None
        net = SSVEPClassifier(sfreq, **{"bands": bands, "seed": seed, **settings.network})
        net.fit(train.x, train.y, subject=people)
        return net.predict(test.x, subject=None if people is None else test.subject)
    fbcca = FBCCAClassifier(test.frequencies, sfreq, bands=bands, harmonics=harmonics)
    if method == "fbcca":
        return fbcca.fit(train.x, train.y).predict(test.x)
    predicted = np.empty(len(test), np.int64)
    for person in np.unique(test.subject):
        own, judged = train.select(train.subject == person), test.subject == person
        if method == "fbcca-calibrated":
            model: Any = make_pipeline(fbcca, StandardScaler(), LogisticRegression(max_iter=1000))
        else:
            model = TRCAClassifier(sfreq, ensemble=method == "etrca", bands=bands)
        predicted[judged] = model.fit(own.x, own.y).predict(test.x[judged])
    return predicted


def draw_windows(report: SSVEPReport, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw accuracy and bits a minute over the length of the window, trained methods solid, training-free ones dashed.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2, sharex=True)
    for method in dict.fromkeys(one.method for one in report.results):
        rows = sorted((one for one in report.results if one.method == method), key=lambda one: one.window)
        style = {"linestyle": "-" if method in _TRAINED else "--", "marker": "o", "capsize": 3}
        windows = [one.window for one in rows]
        for axes, kind in ((left, "accuracy"), (right, "itr")):
            values = [one.as_json() for one in rows]
            name = "accuracy" if kind == "accuracy" else "itr_bits_per_minute"
            # the error of the mean: its bars are what a difference is to be compared with
            errors = [value[f"{kind}_spread"] / max(1, value["entries"]) ** 0.5 for value in values]
            scale = 100 if kind == "accuracy" else 1
            axes.errorbar(
                windows,
                [scale * value[name] for value in values],
                [scale * error for error in errors],
                label=_NAMES[method],
                **style,
            )
    left.axhline(100 * report.largest_class, color="grey", linewidth=1, linestyle=":", label="largest class")
    left.set_ylabel("accuracy (%)")
    right.set_ylabel(f"bits a minute ({report.results[0].gaze_shift:g} s of gaze shift)")
    for axes in (left, right):
        axes.set_xlabel("window (s)")
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    if title:
        figure.suptitle(title, fontsize=11)
    save_figure(figure, path)


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0
