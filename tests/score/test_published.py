"""Scores of published clips, as their tables give them: needs the folder of pairs that HARKEN_DATA names."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from harken.data.audio import read
from harken.score import log_spectral_distance, score_enhancement

DATA = Path(os.environ.get("HARKEN_DATA", "nowhere"))
PAIRS = DATA / "pairs" if (DATA / "pairs").is_dir() else DATA

pytestmark = pytest.mark.skipif(
    not (PAIRS / "voicebank_demand").is_dir(), reason="HARKEN_DATA names no folder of pairs"
)


def scores_of(reference: Path, estimate: Path, *metrics: str) -> list[float]:
    ours, theirs = read(reference), read(estimate)
    return list(score_enhancement(ours.samples[:, 0], theirs.samples[:, 0], ours.rate, metrics).values())


@pytest.mark.parametrize(
    ("clip", "system", "pesq", "sdr"),
    [
        ("p232_032", "noisy", 1.11, 1.5),
        ("p232_032", "mpsenet", 2.15, 11.1),
        ("p232_032", "cmgan", 1.95, 11.5),
        ("p232_032", "dbaiat", 1.94, 11.0),
        ("p232_043", "noisy", 1.61, 5.9),
        ("p232_043", "mpsenet", 3.32, 16.2),
        ("p232_043", "cmgan", 3.06, 17.9),
        ("p232_043", "dbaiat", 2.62, 16.7),
    ],
)
def test_clips_of_published_systems(clip, system, pesq, sdr):
    folder = PAIRS / "voicebank_demand"
    found = scores_of(folder / "clean" / f"{clip}.flac", folder / system / f"{clip}.flac", "pesq_wb", "si_sdr")
    assert found == [pytest.approx(pesq, abs=0.006), pytest.approx(sdr, abs=0.06)]


def test_the_known_answer_of_the_pesq_package():
    folder = PAIRS / "pesq_reference"
    found = scores_of(folder / "speech.flac", folder / "speech_bab_0dB.flac", "pesq_wb", "pesq_nb")
    assert found == [pytest.approx(1.0832337, abs=1e-6), pytest.approx(1.6072081, abs=1e-6)]


@pytest.mark.parametrize(("system", "distance"), [("sinc", 2.07), ("udm+", 0.621), ("ap-bwe", 0.603)])
def test_log_spectral_distance_of_bandwidth_extension(system, distance):
    folder = PAIRS / "bandwidth_48k" / "24kto48k"
    ours, theirs = (read(folder / f"{name}.flac").samples[:, 0] for name in ("wideband", system))
    assert log_spectral_distance(ours, theirs) == pytest.approx(distance, abs=0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "expected"),
    [("noisy", (2.263, 3.71, 2.85, 3.01, 3.98)), ("cmgan", (3.487, 4.61, 4.13, 4.18, 13.54))],
)
def test_composites_of_22_clips_lie_near_the_published_table(system, expected):
    folder = PAIRS / "voicebank_demand"
    metrics = ("pesq_wb", "csig", "cbak", "covl", "segsnr")
    names = sorted(path.name for path in (folder / "cmgan").glob("*.flac"))
    found = np.mean([scores_of(folder / "clean" / name, folder / system / name, *metrics) for name in names], axis=0)
    assert found == pytest.approx(expected, abs=0.006)
