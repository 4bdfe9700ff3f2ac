"""Score a separation: what a system made of a mixture against its sources, frame by frame and as a whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harken.data.audio import Audio, check_finite, read
from harken.errors import InputError, MissingExtraError
from harken.figures import new_figure, require_matplotlib, save_figure
from harken.score.bss_eval import bss_eval
from harken.score.distortion import si_sdr
from harken.score.mapss import Mapss, mapss
from harken.score.speech_encoders import Encoder, find_encoder
from harken.score.waveform import LENGTH_TOLERANCE
from harken.tasks.pairing import pair_folders
from harken.whole_files import write_text

Source = str | os.PathLike[str] | Audio
Progress = Callable[[float], None]

METRICS: dict[str, str] = {"ps": "", "pm": "", "si_sdr": "dB", "sdr": "dB", "sir": "dB", "sar": "dB"}
RATE = 16_000  # of the frame measures
_BSS_EVAL = ("sdr", "sir", "sar")
_COLUMNS = 1500  # of the picture
_PLENTY = 3.0  # dB by which another order must be better before it is worth a note


@dataclass(frozen=True)
class SourceScore:
    """The scores of one source over the whole recording; a metric without a value is nan.

    Attributes:
        name: of the reference.
        estimate: of what a system made of it.
        scores: metric to value; ``ps`` and ``pm`` are means over ``frames``.
        frames: how many 20-ms frames were judged: those in which this source and another are heard.
    """

    name: str
    estimate: str
    scores: dict[str, float]
    frames: int


@dataclass(frozen=True)
class SeparationReport:
    """What scoring a separation found.

    Attributes:
        metrics: the columns, in the order asked.
        sources: one entry per source.
        seconds: duration of what was compared.
        encoder: what turned waveforms into points.
        frames: PS and PM per frame, with their uncertainty; None where neither was asked for.
        notes: what was done to make the signals comparable, and what looks odd about them.
    """

    metrics: tuple[str, ...]
    sources: tuple[SourceScore, ...]
    seconds: float
    encoder: str
    frames: Mapss | None = None
    notes: tuple[str, ...] = ()

    @property
    def mean(self) -> dict[str, float]:
        """The mean of each metric over the sources that have a value."""
        columns = {name: [source.scores[name] for source in self.sources] for name in self.metrics}
        return {name: float(np.nanmean(c)) if not np.isnan(c).all() else math.nan for name, c in columns.items()}

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON's types: nan becomes None, frames become one list per source."""
        report: dict[str, Any] = {
            "metrics": list(self.metrics),
            "encoder": self.encoder,
            "seconds": self.seconds,
            "mean": {name: _json(value) for name, value in self.mean.items()},
            "notes": list(self.notes),
            "sources": [],
        }
        for number, source in enumerate(self.sources):
            entry: dict[str, Any] = {
                "name": source.name,
                "estimate": source.estimate,
                "frames": source.frames,
                "scores": {name: _json(value) for name, value in source.scores.items()},
            }
            for name in ("ps", "pm"):
                if self.frames is not None and name in self.metrics:
                    measure = getattr(self.frames, name)
                    entry[name] = {
                        part: [_json(value) for value in values[:, number].tolist()]
                        for part, values in measure._asdict().items()
                        if not values.isnan().all()
                    }
            report["sources"].append(entry)
        if self.frames is not None:
            report["frame_seconds"] = 0.02
        return report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, whole or not at all.

        Raises:
            OutputError: the file cannot be written.
        """
        write_text(Path(path), json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False))


def score_separation(
    references: Sequence[Source],
    estimates: Sequence[Source],
    *,
    metrics: Iterable[str] | None = None,
    encoder: str | Encoder = "raw",
    layer: int = 2,
    uncertainty: bool = True,
    delta: float = 0.05,
    seed: int = 0,
    plot: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> SeparationReport:
    """Score separated sources against the clean ones, given in the same order.

    PS and PM (:func:`harken.score.mapss.mapss`) are computed on the mean of the channels at 16 kHz; SI-SDR, SDR,
    SIR and SAR on the mean of the channels at the files' own rate.

    Args:
        references: two or more clean sources: files, or :class:`~harken.data.audio.Audio`.
        estimates: what a system made of their mixture, as many, in the same order.
        metrics: names from ``ps, pm, si_sdr, sdr, sir, sar``; all when None.
        encoder: ``"raw"``, ``"spectrum"``, or a speech model of Hugging Face by name.
        layer: of the speech model.
        uncertainty: compute error radii and confidence half-widths too.
        delta: how often a confidence interval may fail.
        seed: of the noises among the distortions.
        plot: draw PS and PM over time into this picture.
        progress: called with the share done.

    Raises:
        InputError: one source, as many estimates as references are not given, other rates or lengths, silence, NaN, an
            unknown metric or encoder; see also :func:`harken.data.audio.read`.
        MissingExtraError: a metric's package, or matplotlib for the picture, is not installed.
        OutputError: the picture cannot be written.
    """
    names = _checked_metrics(metrics)
    if len(references) != len(estimates):
        raise InputError(
            f"{len(references)} references stand against {len(estimates)} estimates: give one estimate per reference"
        )
    if len(references) < 2:
        raise InputError(f"separation needs at least 2 sources, got {len(references)}: see `harken score enhance`")
    if plot is not None:
        require_matplotlib()
        if not {"ps", "pm"} & set(names):
            raise InputError("the picture shows PS and PM over time: ask for one of these metrics")
    wants_frames = bool({"ps", "pm"} & set(names))
    encode = find_encoder(encoder, layer) if wants_frames else None
    ours, theirs, rate, notes = _aligned(references, estimates)
    scores: dict[str, Sequence[float]] = {}
    if "si_sdr" in names:
        scores["si_sdr"] = [si_sdr(one, other) for one, other in zip(ours, theirs, strict=True)]
    if any(name in names for name in _BSS_EVAL):
        whole = bss_eval(*map(torch.from_numpy, (ours, theirs)))
        scores |= {name: values.tolist() for name, values in whole._asdict().items()}
    frames = None
    if encode is not None:
        with torch.no_grad():
            frames = mapss(
                *(torch.from_numpy(_resampled(signals, rate)) for signals in (ours, theirs)),
                encoder=encode, uncertainty=uncertainty, delta=delta, seed=seed, progress=progress,
            )  # fmt: skip
        scores |= {name: values.tolist() for name, values in frames.mean().items()}
        if not frames.is_active.any():
            notes.append("no two sources are heard at once: PS and PM have no value")
    notes += _swapped(ours, theirs)
    report = SeparationReport(
        names,
        tuple(
            SourceScore(
                _name(reference, number),
                _name(estimate, number),
                {name: float(scores[name][number]) for name in names},
                0 if frames is None else int(frames.is_active[:, number].sum()),
            )
            for number, (reference, estimate) in enumerate(zip(references, estimates, strict=True))
        ),
        ours.shape[1] / rate,
        encoder if isinstance(encoder, str) else type(encoder).__name__,
        frames,
        tuple(notes),
    )
    if plot is not None:
        draw_separation(report, plot)
    return report


def sources_of_folders(references: Path, estimates: Path) -> tuple[list[Path], list[Path]]:
    """The files of two folders, paired by name as in :func:`harken.tasks.score.score`.

    Raises:
        InputError: nothing to pair, or a file without a partner.
    """
    pairs, unmatched, ambiguous = pair_folders(references, estimates)
    if ambiguous:
        raise InputError(ambiguous[0][1])
    if unmatched:
        raise InputError(f"'{unmatched[0]}' has no partner of its name in the other folder: every source needs both")
    return [Path(pair.reference) for pair in pairs], [Path(pair.estimate) for pair in pairs]


def draw_separation(report: SeparationReport, path: str | os.PathLike[str]) -> None:
    """Draw PS and PM of every source over time, with the error radius as a band.

    Raises:
        InputError: the report has no frames.
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    if report.frames is None:
        raise InputError("the report has no frames to draw: ask for ps or pm")
    names = [name for name in ("ps", "pm") if name in report.metrics]
    figure = new_figure(10, 1 + 2.2 * len(names))
    panels = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    width = max(1, math.ceil(len(report.frames.is_active) / _COLUMNS))
    time = _columns(report.frames.seconds + 0.01, width)
    for panel, name in zip(panels, names, strict=True):
        measure = getattr(report.frames, name)
        for number, source in enumerate(report.sources):
            value, radius = (_columns(values[:, number], width) for values in (measure.value, measure.radius))
            colour = f"C{number % 10}"
            label = f"{source.name}: {source.scores[name]:.2f}"
            panel.plot(time, value, color=colour, linewidth=0.8, marker=".", markersize=2, label=label)
            if not np.isnan(radius).all():
                low, high = np.clip(value - radius, 0, 1), np.clip(value + radius, 0, 1)
                panel.fill_between(time, low, high, color=colour, alpha=0.25, linewidth=0)
        panel.set_ylim(0, 1.02)
        panel.set_ylabel({"ps": "separation (PS)", "pm": "match (PM)"}[name])
        panel.legend(loc="lower right", fontsize=8)
        panel.grid(alpha=0.3)
    panels[-1].set_xlabel("time (s)")
    panels[-1].set_xlim(0, report.seconds)
    save_figure(figure, path)


def _checked_metrics(metrics: Iterable[str] | None) -> tuple[str, ...]:
    names = tuple(METRICS) if metrics is None else tuple(dict.fromkeys(metrics))
    for name in names:
        if name not in METRICS:
            raise InputError(f"no metric of separation named '{name}': choose among {', '.join(METRICS)}")
    if not names:
        raise InputError(f"no metric asked for: choose among {', '.join(METRICS)}")
    if {"ps", "pm"} & set(names) and find_spec("scipy") is None:
        raise MissingExtraError("scipy", extra="score")
    return names


def _aligned(
    references: Sequence[Source], estimates: Sequence[Source]
) -> tuple[np.ndarray, np.ndarray, int, list[str]]:
    """References and estimates ``(sources, samples)`` of one length, one channel and one rate."""
    notes: list[str] = []
    signals: list[np.ndarray] = []
    rate, first, channels = 0, "", 0
    for number, source in enumerate((*references, *estimates)):
        audio, name = read(source) if not isinstance(source, Audio) else source, _name(source, number)
        check_finite(audio.samples, audio.rate, name)
        if not audio.samples.any():
            raise InputError(f"'{name}' is silent: there is nothing to score")
        if rate and audio.rate != rate:
            raise InputError(f"'{name}' has {audio.rate} Hz and '{first}' {rate} Hz: resample all to one rate")
        if not rate:
            rate, first = audio.rate, name
        channels = max(channels, audio.channels)
        signals.append(audio.mono().samples[:, 0].astype(np.float64))
        if not signals[-1].any():
            raise InputError(f"the channels of '{name}' cancel to silence: score them one by one")
    shortest, longest = min(map(len, signals)), max(map(len, signals))
    if longest - shortest > LENGTH_TOLERANCE * longest:
        raise InputError(
            f"the files last from {shortest / rate:.2f} to {longest / rate:.2f} s: "
            f"lengths may differ by {LENGTH_TOLERANCE:.0%} at most; check that they belong together"
        )
    if longest != shortest:
        notes.append(f"{shortest} to {longest} samples, all cut to the shortest")
    if channels > 1:
        notes.append(f"up to {channels} channels, their mean scored")
    together = np.stack([signal[:shortest] for signal in signals])
    for name, signal in zip((_name(s, n) for n, s in enumerate((*references, *estimates))), together, strict=True):
        if not signal.any():
            raise InputError(f"'{name}' is silent in its first {shortest / rate:.2f} s: there is nothing to score")
    return together[: len(references)], together[len(references) :], rate, notes


def _resampled(signals: np.ndarray, rate: int) -> np.ndarray:
    return np.stack([Audio(signal, rate).resample(RATE).samples[:, 0] for signal in signals])


def _swapped(ours: np.ndarray, theirs: np.ndarray) -> list[str]:
    """A note where some estimate fits another reference much better: a wrong order ruins every metric."""
    notes = []
    for number, estimate in enumerate(theirs):
        fits = [si_sdr(reference, estimate) for reference in ours]
        best = int(np.nanargmax(fits)) if not np.isnan(fits).all() else number
        if fits[best] - fits[number] > _PLENTY:
            notes.append(f"estimate {number + 1} fits reference {best + 1} better than its own: is the order the same?")
    return notes


def _columns(values: Tensor, width: int) -> np.ndarray:
    """Means over ``width`` frames, so that hours fit into a picture."""
    padded = torch.nn.functional.pad(values.float(), (0, -len(values) % width), value=math.nan)
    return padded.reshape(-1, width).nanmean(-1).numpy()


def _name(source: Source, number: int) -> str:
    return f"source {number + 1}" if isinstance(source, Audio) else Path(source).name


def _json(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 6)
