"""The recipe of enhancers in the loop: it learns, resumes, and its discriminator listens through PESQ."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from harken.data.mixing import MixConfig, Recordings
from harken.errors import CheckpointError
from harken.models.enhance.mp_senet import MPSENet, MPSENetConfig
from harken.train import enhancement
from harken.train.enhancement import EnhancementRecipe, normalise, validation_pairs
from harken.train.loop import LoopConfig, train
from harken.train.losses import EnhancementWeights
from tests.train.toy import weights

CONFIG = replace(MPSENetConfig.small(), channels=8, blocks=1, heads=2, n_fft=256, hop_length=64, win_length=256)
MIX = MixConfig(seconds=0.3)
LOOP = LoopConfig(steps=4, batch_size=2, lr=2e-3, warmup=1, ema=0.9, validate_every=4, save_every=2)


@pytest.fixture(scope="module")
def sources(recordings) -> tuple[Recordings, Recordings]:
    return Recordings([recordings / "speech"], 16000), Recordings([recordings / "noise"], 16000)


def recipe(sources, model=None, seed=0, **options) -> EnhancementRecipe:
    torch.manual_seed(seed)
    return EnhancementRecipe(model or MPSENet(CONFIG), *sources, **{"mix": MIX, "validation_items": 1, **options})


def test_the_loss_falls(sources, tmp_path):
    totals: list[float] = []
    made = recipe(sources)
    best = train(
        made,
        replace(LOOP, steps=30, validate_every=30),
        tmp_path,
        device="cpu",
        on_step=lambda step, losses: totals.append(losses["total"]),
    )
    assert np.mean(totals[-8:]) < 0.9 * np.mean(totals[:8])
    assert best["si_sdr"] > -30
    assert 1 <= best["pesq_wb"] < 4.65 or math.isnan(best["pesq_wb"])
    assert MPSENet.from_pretrained(tmp_path / "best").config == CONFIG


def test_a_stopped_run_goes_on_exactly(sources, tmp_path):
    def stop(step: int, losses: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe(sources, adversary_from=1), LOOP, tmp_path / "a", device="cpu", on_step=stop)
    train(recipe(sources, adversary_from=1), LOOP, tmp_path / "a", resume=True, device="cpu")
    train(recipe(sources, adversary_from=1), LOOP, tmp_path / "b", device="cpu")
    ours, theirs = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_discriminator_joins_late_and_learns_every_so_many_steps(sources, tmp_path, monkeypatch):
    judged: list[int] = []
    monkeypatch.setattr(enhancement, "_pesq_of", lambda job: judged.append(len(job[0])) or 2.0)
    logged: dict[int, set[str]] = {}
    made = recipe(sources, adversary_from=1, adversary_every=2)
    train(made, LOOP, tmp_path, device="cpu", on_step=lambda step, losses: logged.update({step: set(losses)}))
    assert [step for step, names in logged.items() if "metric" in names] == [2, 3, 4]
    assert [step for step, names in logged.items() if "adversary_total" in names] == [3]
    assert judged.count(round(0.3 * 16000)) == 2  # one batch; the rest is the validation


@pytest.mark.parametrize("quality", [math.nan, 3.0])
def test_the_discriminator_s_second_term_is_skipped_where_pesq_has_no_score(sources, monkeypatch, quality):
    monkeypatch.setattr(enhancement, "_pesq_of", lambda job: quality)
    made = recipe(sources, adversary_from=0)
    batch = [torch.from_numpy(np.stack(part)) for part in zip(*(made.dataset(2, 0)[i] for i in range(2)), strict=True)]
    outputs = made.generate(made.model, batch, 0)
    made.adversary.eval()
    loss = made.adversary_losses(made.adversary, outputs, 0)["total"]
    heard = outputs.heard
    real = made.adversary(heard.reference, heard.reference)
    fake = made.adversary(heard.reference, heard.estimate)
    expected = (real - 1).square().mean()
    if math.isfinite(quality):
        expected = expected + (fake - (quality - 1) / 3.5).square().mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_pesq_hears_the_output(sources):
    made = recipe(sources, mix=replace(MIX, seconds=1.0))
    clean = torch.from_numpy(sources[0].crop(16000, np.random.default_rng(0)))[None]
    assert made._pesq(clean, clean)[0] > 4.5
    assert np.isnan(made._pesq(torch.zeros(1, 16000), clean)[0])


def test_a_trained_model_is_a_start(sources):
    trained = MPSENet(CONFIG).eval()
    made = recipe(sources, trained)
    assert made.model is trained
    assert torch.equal(
        recipe(sources, seed=5).model.encoder.lift[0].weight, recipe(sources, seed=5).model.encoder.lift[0].weight
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix": replace(MIX, snr=(0.0, 10.0))}, "mix.snr"),
        ({"weights": EnhancementWeights(loudness=0.3)}, "weights.loudness 0.0 -> 0.3"),
    ],
)
def test_other_mixtures_or_losses_are_another_run(sources, tmp_path, options, message):
    train(recipe(sources), LOOP, tmp_path, device="cpu")
    with pytest.raises(CheckpointError, match=message):
        train(recipe(sources, **options), LOOP, tmp_path, resume=True, device="cpu")


def test_other_recordings_are_another_run(sources, recordings, tmp_path):
    train(recipe(sources), LOOP, tmp_path, device="cpu")
    fewer = (Recordings([recordings / "speech/0.wav"], 16000), sources[1])
    with pytest.raises(CheckpointError, match=r"recordings\.clean \[\d"):
        train(recipe(fewer), LOOP, tmp_path, resume=True, device="cpu")


def test_normalising_brings_the_noisy_side_to_unit_level_and_keeps_the_ratio(seed):
    noisy, clean = torch.randn(2, 2, 500, generator=seed) * 1e-3
    noisy[1] = 0
    level, reference = normalise(noisy, clean)
    assert level[0].square().mean() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(level[0] * clean[0], reference[0] * noisy[0], atol=1e-6)
    assert level.isfinite().all() and reference.isfinite().all()


def test_validation_mixtures_are_fixed_and_as_noisy_as_said(sources):
    pairs = validation_pairs(sources, MIX, 4)
    again = validation_pairs(sources, replace(MIX, snr=(0.0, 0.0), seconds=2.0), 4)
    assert all(
        np.array_equal(a, b) for one, other in zip(pairs, again, strict=True) for a, b in zip(one, other, strict=True)
    )
    assert {len(noisy) for noisy, _ in pairs} == {64000}
    ratios = [10 * np.log10(np.mean(clean**2) / np.mean((noisy - clean) ** 2)) for noisy, clean in pairs]
    assert ratios == sorted(ratios)
    assert ratios[-1] - ratios[0] == pytest.approx(15, abs=1)


def test_scores_of_the_input_are_there_to_compare_with(sources):
    scores = recipe(sources, validation_items=2).score_of_input()
    assert scores.keys() == {"pesq_wb", "si_sdr"}
    assert scores["si_sdr"] == pytest.approx(2.5, abs=3)
