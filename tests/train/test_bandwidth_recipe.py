"""The recipe of AP-BWE in the loop: it learns, resumes, and hears its discriminators."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.audio import read, write
from harken.data.mixing import Recordings
from harken.data.narrowing import NarrowConfig
from harken.errors import CheckpointError
from harken.models.enhance.ap_bwe import APBWE, APBWEConfig
from harken.train.bandwidth import BandwidthRecipe, BandwidthWeights
from harken.train.loop import LoopConfig, train
from tests.train.toy import weights

CONFIG = APBWEConfig(channels=8, layers=1, n_fft=256, hop_length=64, win_length=256)
NARROW = NarrowConfig(seconds=0.15, gain=(-6.0, -6.0))
LOOP = LoopConfig(steps=4, batch_size=2, lr=2e-3, warmup=1, ema=0.9, validate_every=4, save_every=2)


@pytest.fixture(scope="module")
def speech(recordings) -> Recordings:
    return Recordings([recordings / "speech"], 16000)


def recipe(speech, **options) -> BandwidthRecipe:
    return BandwidthRecipe(CONFIG, speech, **{"narrow": NARROW, "validation_items": 2, **options})


def test_the_loss_falls_and_the_missing_band_is_judged(speech, tmp_path):
    totals: list[float] = []
    made = recipe(speech)
    best = train(
        made,
        replace(LOOP, steps=40, lr=5e-3, validate_every=40),
        tmp_path,
        device="cpu",
        on_step=lambda step, losses: totals.append(losses["amplitude"]),
    )
    assert np.mean(totals[-8:]) < 0.8 * np.mean(totals[:8])
    assert {"lsd", "lsd_high", "apd_ip"} <= best.keys()
    assert APBWE.from_pretrained(tmp_path / "best").config == CONFIG


def test_a_stopped_run_goes_on_exactly(speech, tmp_path):
    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    options = {"adversary_width": 1 / 32, "adversary_from": 1}
    with pytest.raises(KeyboardInterrupt):
        train(recipe(speech, **options), LOOP, tmp_path / "a", device="cpu", on_step=stop)
    train(recipe(speech, **options), LOOP, tmp_path / "a", resume=True, device="cpu")
    logged: dict[int, set[str]] = {}
    train(
        recipe(speech, **options),
        LOOP,
        tmp_path / "b",
        device="cpu",
        on_step=lambda step, losses: logged.update({step: set(losses)}),
    )
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [step for step, names in logged.items() if "adversary_total" in names] == [2, 3, 4]
    assert "adversarial" not in logged[1] and {"adversarial", "features"} <= logged[2]


def test_a_perfect_output_has_no_spectral_loss(speech):
    made = recipe(speech)
    wide = torch.from_numpy(speech.crop(2048, np.random.default_rng(0)))[None]
    terms = made.loss(made.model, wide, *made.model.analyse(wide), wide)
    assert float(terms["total"]) == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"narrow": replace(NARROW, source_rates=(4000,))}, "narrow.source_rates"),
        ({"weights": BandwidthWeights(phase=1.0)}, "weights.phase 100.0 -> 1.0"),
    ],
)
def test_other_pairs_or_losses_are_another_run(speech, tmp_path, options, message):
    train(recipe(speech), LOOP, tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match=message):
        train(recipe(speech, **options), LOOP, tmp_path, resume=True, device="cpu")


def test_the_input_has_nothing_above(speech):
    made = recipe(speech)
    assert made.score_of_input()["lsd_high"] > made.score_of(lambda narrow: narrow)["lsd_low"]


def test_the_command_trains_what_extend_takes(recordings, tmp_path, capsys):
    speech, run = str(recordings / "speech"), tmp_path / "run"
    quick = ["--steps", "1", "--batch-size", "1", "--seconds", "0.2", "--validate-every", "1", "--device", "cpu"]
    assert main(["train", "ap-bwe", "--clean", speech, "--out", str(run), *quick]) == 0
    said = capsys.readouterr().err
    assert "to beat, by a sinc filter: LSD" in said
    assert f"harken extend --weights {run / 'best'}" in said
    narrow = tmp_path / "narrow.wav"
    write(narrow, read(recordings / "speech" / "0.wav").resample(8000))
    assert main(["extend", str(narrow), "--weights", str(run / "best"), "--quiet"]) == 0
    wide = read(tmp_path / "narrow.extended.wav")
    assert (wide.rate, wide.frames) == (16000, 24000)
    assert main(["train", "ap-bwe", "--clean", speech, "--out", str(run), *quick]) == 2
    assert main(["train", "ap-bwe", "--clean", speech, "--to", "44100", *quick]) == 2
    assert "no preset extends" in capsys.readouterr().err
