"""All metrics of speech enhancement under one name each, computed together so that nothing is computed twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harken.errors import InputError
from harken.score.distortion import log_spectral_distance, segmental_snr, si_sdr
from harken.score.opinion import Composite, composite
from harken.score.perceptual import estoi, pesq_nb, pesq_wb, stoi
from harken.score.waveform import Samples, Waveform, find_delay, matched, shift

SHORTEST = 0.25


@dataclass(frozen=True)
class Metric:
    """What a metric's number means to its reader, and the optional package it needs."""

    title: str
    span: str
    unit: str
    higher_is_better: bool
    meaning: str
    package: str | None = None


METRICS: dict[str, Metric] = {
    "pesq_wb": Metric(
        "PESQ-WB", "1.0 to 4.64", "MOS", True, "overall quality, wide band (ITU-T P.862.2), at 16 kHz", "pesq"
    ),
    "pesq_nb": Metric("PESQ-NB", "1.0 to 4.55", "MOS", True, "overall quality, telephone band (ITU-T P.862.1)", "pesq"),
    "stoi": Metric("STOI", "0 to 1", "", True, "how much of the speech is understood", "pystoi"),
    "estoi": Metric("ESTOI", "0 to 1", "", True, "the same where the noise fluctuates", "pystoi"),
    "si_sdr": Metric("SI-SDR", "-100 to 100", "dB", True, "signal to distortion at the best scale; hurt by any delay"),
    "segsnr": Metric(
        "segSNR", "-10 to 35", "dB", True, "signal to noise, mean of 30-ms frames; hurt by delay and gain"
    ),
    "csig": Metric("CSIG", "1 to 5", "MOS", True, "predicted rating of the speech signal", "pesq"),
    "cbak": Metric("CBAK", "1 to 5", "MOS", True, "predicted rating of the background", "pesq"),
    "covl": Metric("COVL", "1 to 5", "MOS", True, "predicted rating of the whole", "pesq"),
    "lsd": Metric("LSD", "0 and up", "", False, "distance between log power spectra, in decades"),
}


def score_enhancement(
    reference: Waveform,
    estimate: Waveform,
    rate: int,
    metrics: Iterable[str] | None = None,
    *,
    align: bool = False,
    max_delay: float = 0.05,
) -> dict[str, float]:
    """Score one channel of enhanced speech against its clean reference.

    A metric without a value for this pair is nan: PESQ and the composites where no speech is found or the estimate is
    silent, STOI where less than 0.4 s is active, SI-SDR of a silent estimate.

    Args:
        reference: the clean signal, floats ``(samples,)`` in [-1, 1].
        estimate: the processed one; its length may differ by 5 % and the longer is cut.
        rate: of both, in Hz.
        metrics: names from :data:`METRICS`; all when None.
        align: find the delay of the estimate, remove it first, and report it as ``delay_ms``.
        max_delay: how far to look, in seconds.

    Raises:
        InputError: an unknown metric; a silent reference; less than 0.25 s; see also
            :func:`harken.score.waveform.matched`.
        MissingExtraError: a metric's package is not installed.

    >>> clean, noise = np.random.default_rng(0).standard_normal((2, 16000))
    >>> scores = score_enhancement(clean, clean + 0.1 * noise, 16000, ["si_sdr", "segsnr"])
    >>> {name: round(value) for name, value in scores.items()}
    {'si_sdr': 20, 'segsnr': 20}
    """
    names = check_metrics(metrics)
    if rate < 1:
        raise InputError(f"expected a rate in Hz, got {rate}")
    ours, theirs = matched(reference, estimate)
    scores: dict[str, float] = {}
    if align:
        delay = find_delay(ours, theirs, rate, max_delay=max_delay)
        ours, theirs = shift(ours, theirs, delay)
        scores["delay_ms"] = 1000 * delay / rate
    if len(ours) < SHORTEST * rate:
        raise InputError(f"{len(ours) / rate:.3f} s is too short to score: give at least {SHORTEST} s")
    if not np.any(ours):
        raise InputError("the reference is silent: there is nothing to compare the estimate with")
    return scores | _Computation(ours, theirs, rate).run(names)


def check_metrics(metrics: Iterable[str] | None, known: Mapping[str, Metric] = METRICS) -> tuple[str, ...]:
    """The metrics asked for, in the order asked; all that are known when None.

    Raises:
        InputError: a name that is none, or none at all.

    >>> check_metrics(["stoi", "psnr"])
    Traceback (most recent call last):
    harken.errors.InputError: no metric named 'psnr': choose among pesq_wb, pesq_nb, stoi, estoi, si_sdr, segsnr, ...
    """
    names = tuple(known) if metrics is None else tuple(dict.fromkeys(metrics))
    for name in names:
        if name not in known:
            raise InputError(f"no metric named '{name}': choose among {', '.join(known)}")
    if not names:
        raise InputError(f"no metric asked for: choose among {', '.join(known)}")
    return names


class _Computation:
    """One pair of signals; what two metrics need is computed once."""

    def __init__(self, reference: Samples, estimate: Samples, rate: int):
        self.pair = reference, estimate
        self.rate = rate
        self._composite: Composite | None = None
        self._known: dict[str, float] = {}

    def run(self, names: tuple[str, ...]) -> dict[str, float]:
        return {name: self.value(name) for name in names}

    def value(self, name: str) -> float:
        if name not in self._known:
            self._known[name] = getattr(self.composite, name) if name in Composite._fields else self.measure(name)
        return self._known[name]

    def measure(self, name: str) -> float:
        if name == "si_sdr":
            return si_sdr(*self.pair)
        if name == "lsd":
            return log_spectral_distance(*self.pair)
        return _AT_RATE[name](*self.pair, self.rate)

    @property
    def composite(self) -> Composite:
        if self._composite is None:
            quality = self.value("pesq_nb" if self.rate == 8000 else "pesq_wb")
            self._composite = composite(*self.pair, self.rate, pesq=quality)
        return self._composite


_AT_RATE: dict[str, Callable[[Waveform, Waveform, int], float]] = {
    "pesq_wb": pesq_wb,
    "pesq_nb": pesq_nb,
    "stoi": stoi,
    "estoi": estoi,
    "segsnr": segmental_snr,
}
