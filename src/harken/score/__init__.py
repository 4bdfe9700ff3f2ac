"""Metrics: what comes out, judged."""

from __future__ import annotations

from harken.score.distortion import log_spectral_distance, segmental_snr, si_sdr
from harken.score.enhancement import METRICS, Metric, score_enhancement
from harken.score.extension import EXTENSION_METRICS, anti_wrapped_phase_distance, score_extension
from harken.score.opinion import Composite, composite, llr, weighted_spectral_slope
from harken.score.perceptual import estoi, pesq_nb, pesq_wb, stoi
from harken.score.waveform import find_delay

__all__ = [
    "EXTENSION_METRICS",
    "METRICS",
    "Composite",
    "Metric",
    "anti_wrapped_phase_distance",
    "composite",
    "estoi",
    "find_delay",
    "llr",
    "log_spectral_distance",
    "pesq_nb",
    "pesq_wb",
    "score_enhancement",
    "score_extension",
    "segmental_snr",
    "si_sdr",
    "stoi",
    "weighted_spectral_slope",
]
