"""Labelled trials in, a decoder out, judged beside classical ones; new trials in, their classes out."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from harken.data.brain import Trials, require_mne
from harken.data.brain_files import UNLABELLED
from harken.errors import InputError
from harken.figures import new_figure, save_figure
from harken.tasks.brain_evaluation import (
    Evaluation,
    Progress,
    baseline_decoders,
    draw_accuracies,
    draw_confusion,
    evaluate,
)
from harken.whole_files import write_text


@dataclass(frozen=True)
class Decoding:
    """What ``harken brain decode`` found.

    Attributes:
        evaluation: DBConformer and the baselines on the same folds.
        decoder: trained on all trials; None unless it was asked for.
        channel_attention: its mean weight of each channel, by class, ``(classes, channels)``; None where it has none.
        ch_names: of the channels.
        positions: of the sensors, ``(channels, 3)`` metres; None where they are not known.
    """

    evaluation: Evaluation
    decoder: Any = None
    channel_attention: Float[np.ndarray, "classes channels"] | None = None
    ch_names: tuple[str, ...] = ()
    positions: Float[np.ndarray, "channels 3"] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        found = self.evaluation.as_json()
        if self.channel_attention is not None:
            found["channels"] = list(self.ch_names)
            found["channel_attention"] = self.channel_attention.tolist()
        return found


def decode(
    trials: Trials,
    *,
    parameters: Mapping[str, Any] | None = None,
    split: str = "within-session",
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    baselines: Sequence[str] = ("csp-lda", "riemann", "band-power"),
    keep: bool = True,
    progress: Progress | None = None,
) -> Decoding:
    """Judge :class:`~harken.models.brain.DBConformerClassifier` on folds, then train one on all trials.

    What the last one attends to is of the trials that it learned from: a description, not a test.

    Args:
        trials: what is learned and judged.
        parameters: of the classifier.
        split, folds, seeds: as for :func:`harken.tasks.brain_evaluation.evaluate`.
        baselines: classical decoders beside it.
        keep: whether the decoder of all trials is trained.
        progress: called as ``progress(share done, note)``.

    Raises:
        InputError: the trials do not allow the split, or a parameter is unusable.
    """
    from harken.models.brain.dbconformer_classifier import DBConformerClassifier

    parameters = dict(parameters or {})

    def make(seed: int) -> Any:
        return DBConformerClassifier(**parameters, seed=seed)

    share = 0.85 if keep else 1.0
    told = None if progress is None else lambda done, note: progress(share * done, note)
    decoders = {"dbconformer": make, **baseline_decoders(baselines, trials.sfreq)}
    evaluation = evaluate(decoders, trials, split=split, folds=folds, seeds=seeds, progress=told)
    if not keep:
        return Decoding(evaluation, ch_names=trials.ch_names, positions=trials.positions)
    decoder = make(seeds[0])
    if progress is not None:
        decoder.set_params(progress=lambda done, note: progress(share + (1 - share) * done, f"all trials: {note}"))
    decoder.fit(trials, trials.labels, groups=trials.subject)
    decoder.set_params(progress=None)
    attention = None
    if decoder.channel_attention and decoder.branch == "both":
        weights = decoder.channel_weights(trials)
        present = [weights[trials.y == label] for label in range(len(trials.classes))]
        attention = np.stack([part.mean(0) if len(part) else np.zeros(weights.shape[1]) for part in present])
    return Decoding(evaluation, decoder, attention, trials.ch_names, known_positions(trials))


@dataclass(frozen=True)
class Predictions:
    """Classes that a saved decoder gives to trials.

    Attributes:
        named: one label a trial.
        probability: of each class, ``(trials, classes)``.
        classes: the decoder's.
        accuracy: where the trials came with labels that the decoder knows; else None.
    """

    named: tuple[str, ...]
    probability: Float[np.ndarray, "trials classes"]
    classes: tuple[str, ...]
    accuracy: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            "trials": len(self.named),
            "classes": list(self.classes),
            "accuracy": self.accuracy,
            "predictions": list(self.named),
            "probabilities": self.probability.tolist(),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """As CSV, one row a trial, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        text = StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["trial", "class", *self.classes])
        for number, (name, row) in enumerate(zip(self.named, self.probability, strict=True)):
            rows.writerow([number, name, *(f"{value:.6g}" for value in row)])
        write_text(Path(path), text.getvalue())


def apply_decoder(folder: str | os.PathLike[str], trials: Trials) -> Predictions:
    """What the decoder of a folder makes of new trials; their labels, if any, are only compared.

    Raises:
        CheckpointError: the folder holds no decoder.
        InputError: other channels, lengths or rates than it was fitted on.
    """
    from harken.models.brain import load_estimator

    decoder = load_estimator(folder)
    if not hasattr(decoder, "predict_proba"):
        raise InputError(f"'{folder}' holds a {type(decoder).__name__}, which names no classes")
    if decoder.sfreq_ is not None and decoder.sfreq_ != trials.sfreq:
        raise InputError(
            f"the decoder was fitted at {decoder.sfreq_:g} Hz, the trials are at {trials.sfreq:g}: "
            f"give --sfreq {decoder.sfreq_:g}"
        )
    probability = decoder.predict_proba(trials)
    named = tuple(str(label) for label in decoder.classes_[probability.argmax(1)])
    classes = tuple(str(label) for label in decoder.classes_)
    known = trials.classes != (UNLABELLED,) and set(trials.labels) <= set(classes)
    accuracy = float(np.mean(np.array(named) == trials.labels)) if known else None
    return Predictions(named, probability, classes, accuracy)


def known_positions(trials: Trials) -> Float[np.ndarray, "channels 3"] | None:
    """Where the sensors are: as the trials say, else where the standard 10-05 montage has channels of these names."""
    if trials.positions is not None and np.isfinite(trials.positions).all():
        return trials.positions
    channels = require_mne().channels
    name = next(n for n in ("colin27_1005", "standard_1005") if n in channels.get_builtin_montages())  # as MNE calls it
    montage = channels.make_standard_montage(name)
    places = {name.lower(): place for name, place in montage.get_positions()["ch_pos"].items()}
    if len(trials.ch_names) < 4 or any(name.lower() not in places for name in trials.ch_names):
        return None
    return np.array([places[name.lower()] for name in trials.ch_names])


def draw_decoding(found: Decoding, path: str | os.PathLike[str], *, title: str = "") -> None:
    """Accuracies, confusions, and where the decoder looks: on the head where it is known, else as bars.

    Raises:
        MissingExtraError: matplotlib or MNE is not installed.
        OutputError: the picture cannot be written.
    """
    evaluation, attention = found.evaluation, found.channel_attention
    figure = new_figure(9.5 if attention is None else 13.5, 4)
    axes = figure.subplots(1, 2 if attention is None else 3)
    draw_accuracies(evaluation, axes[0])
    draw_confusion(evaluation, axes[1])
    if attention is not None:
        draw_channel_attention(axes[2], attention.mean(0), found.ch_names, found.positions)
    figure.suptitle(title or f"{evaluation.split}, {evaluation.trials} trials", fontsize=11)
    save_figure(figure, path)


def draw_channel_attention(
    axes: Any,
    weights: Float[np.ndarray, " channels"],
    names: Sequence[str],
    positions: Float[np.ndarray, "channels 3"] | None,
) -> None:
    """One weight a channel: a map of the head, or bars where the sensors' places are not known."""
    even = 1 / len(weights)
    if positions is None:
        order = np.argsort(weights)[::-1][:24]
        axes.barh([names[i] for i in order][::-1], weights[order][::-1], color="#30506a")
        axes.axvline(even, color="#888888", linestyle="--", linewidth=1)
        axes.set_xlabel("mean channel attention (dashed: even)")
        axes.tick_params(axis="y", labelsize=7)
        return
    mne = require_mne()
    info = mne.create_info(list(names), 100.0, "eeg", verbose="error")
    places = dict(zip(names, positions, strict=True))
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"), verbose="error")
    image, _ = mne.viz.plot_topomap(weights / even, info, axes=axes, show=False, cmap="viridis", contours=4)
    axes.figure.colorbar(image, ax=axes, shrink=0.7, label="channel attention over even")
