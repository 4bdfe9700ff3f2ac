"""What an envelope following response is made of: statistics beside their null distributions (arXiv 2507.05635)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Complex, Float

from harken.models.brain.efr import published_peaks
from harken.signal.cross_spectra import coherence_by_chance, without_bias

STATISTICS = ("coherence", "gain", "ratio", "pair_density", "pair_coefficient", "eeg_coherence")


@dataclass(frozen=True)
class Statistic:
    """A statistic of every row (channel or pair of channels) and frequency, and its distribution by chance.

    Attributes:
        value: as measured.
        expected: its mean over surrogates.
        limit: what surrogates exceed *anywhere* with the probability ``alpha``: the largest studentised value over all
            rows and frequencies decides, so that one may look at all of them.
        p: probability of such a value anywhere by chance; never below one over the number of surrogates plus one.
    """

    value: Float[np.ndarray, "rows frequencies"]
    expected: Float[np.ndarray, "rows frequencies"]
    limit: Float[np.ndarray, "rows frequencies"]
    p: Float[np.ndarray, "rows frequencies"]

    @property
    def is_found(self) -> np.ndarray:
        """Where the value is above the limit."""
        return self.value > self.limit


@dataclass(frozen=True)
class EnvelopeResponse:
    """What :class:`EnvelopeFollowing` found.

    Attributes:
        frequencies: Hz.
        channels, pairs: names of the rows of statistics.
        statistics: by name: ``coherence`` (magnitude-squared, of envelope and channel) and ``gain`` (``|H1|``), which
            are to be trusted; ``ratio``, ``pair_density`` and ``pair_coefficient``, as published, which divide by the
            envelope's spectrum frame by frame; ``eeg_coherence`` of channel and channel.
        transfer: Welch's H1, ``sum X E* / sum |E|^2``, in units of the EEG over those of the envelope.
        phase: circular mean over frames of the phase of the EEG minus that of the envelope.
        segments: as how many independent ones the segments count.
        alpha: of the limits.
    """

    frequencies: Float[np.ndarray, " frequencies"]
    channels: tuple[str, ...]
    pairs: tuple[str, ...]
    statistics: Mapping[str, Statistic]
    transfer: Complex[np.ndarray, "channels frequencies"]
    phase: Float[np.ndarray, "channels frequencies"]
    segments: float
    alpha: float

    @property
    def coherence_without_bias(self) -> Float[np.ndarray, "channels frequencies"]:
        """Coherence less what chance adds on average: about 0 where nothing follows."""
        return without_bias(torch.from_numpy(self.statistics["coherence"].value), self.segments).numpy()

    def rows(self, statistic: str) -> tuple[str, ...]:
        """Names of the rows of a statistic."""
        return self.pairs if statistic in ("pair_density", "pair_coefficient", "eeg_coherence") else self.channels

    def found(self, statistic: str = "coherence") -> dict[str, list[float]]:
        """Frequencies in Hz at which a statistic is above its limit, row by row."""
        above = self.statistics[statistic].is_found
        return {name: self.frequencies[row].tolist() for name, row in zip(self.rows(statistic), above, strict=True)}

    def peaks(self, statistic: str = "ratio") -> dict[str, list[float]]:
        """The peaks that the published rule picks, in Hz, whatever chance makes."""
        values = self.statistics[statistic].value
        return {
            name: self.frequencies[published_peaks(row)].tolist()
            for name, row in zip(self.rows(statistic), values, strict=True)
        }

    def as_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "frequencies_hz": self.frequencies.tolist(),
            "channels": list(self.channels),
            "pairs": list(self.pairs),
            "alpha": self.alpha,
            "independent_segments": self.segments,
            "coherence_by_chance": coherence_by_chance(self.segments, self.alpha),
            "transfer_real": self.transfer.real.tolist(),
            "transfer_imaginary": self.transfer.imag.tolist(),
            "phase_rad": self.phase.tolist(),
            "statistics": {
                name: {
                    "value": one.value.tolist(),
                    "by_chance": one.expected.tolist(),
                    "limit": one.limit.tolist(),
                    "p": one.p.tolist(),
                    "found_hz": self.found(name),
                    "published_peaks_hz": self.peaks(name),
                }
                for name, one in self.statistics.items()
            },
        }
