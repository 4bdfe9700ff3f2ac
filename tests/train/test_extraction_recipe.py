"""The recipes of Look Once to Hear: losses go down, judgement is of people never heard, and who is wanted matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.cli import main
from harken.data.audio import Audio, write
from harken.data.hrtf import HRIRs
from harken.data.spatial_mixing import Heads, SpatialConfig, Talkers
from harken.models.separate.look_once import LookOnceConfig, LookOnceToHear
from harken.models.separate.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig
from harken.train.extraction import EnrolmentRecipe, ExtractionRecipe, Sources, score_scenes, snr_db
from harken.train.loop import LoopConfig, train

NET = LookOnceConfig(embedding_dim=8, channels=4, blocks=2, hidden=4, heads=1, stride=3, output="mask", memory=10)
ENCODER = SpeakerEncoderConfig(embedding_dim=8, hidden=8, layers=1, bands=12, partial=30, step=15)
MIX = SpatialConfig(seconds=0.25, speeds=(1.0,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Talkers of one tone each."""
    root = tmp_path_factory.mktemp("talkers")
    time = np.arange(16000 * 5) / 16000
    for i, hertz in enumerate((150, 330, 700, 1500)):
        tone = 0.2 * np.sign(np.sin(2 * np.pi * hertz * time)) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))
        write(root / f"{i}-0-0.wav", Audio(tone.astype(np.float32)[: 16000 * 3], 16000))
        write(root / f"{i}-0-1.wav", Audio(tone.astype(np.float32)[16000 * 2 :], 16000))
    return root


@pytest.fixture
def sources(folder):
    responses = np.zeros((2, 2, 16), np.float32)
    responses[0, :, 0] = responses[1, 0, 0] = 1
    responses[1, 1, 8] = 0.5
    heads = Heads.of([HRIRs(responses, np.array([[0.0, 0.0], [90.0, 0.0]]), 16000)], 16000)
    return Sources(Talkers([folder], 16000), None, heads)


def teacher():
    torch.manual_seed(0)
    return SpeakerEncoder(ENCODER)


def test_the_extractor_learns(sources, tmp_path):
    recipe = ExtractionRecipe(LookOnceToHear(NET), sources, sources, teacher(), mix=MIX, validation_items=2)
    loop = LoopConfig(steps=25, batch_size=2, lr=5e-3, validate_every=25, save_every=25, warmup=1)
    losses = []
    best = train(recipe, loop, tmp_path, device="cpu", on_step=lambda step, made: losses.append(made["total"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert {"si_sdr", "si_sdr_gain", "ild_error", "itd_error"} <= best.keys()


def test_an_encoder_learns_to_hear_through_noise(sources, tmp_path):
    recipe = EnrolmentRecipe(teacher().facing_front(), sources, sources, teacher(), mix=MIX, validation_items=3)
    loop = LoopConfig(steps=25, batch_size=2, lr=5e-3, validate_every=25, save_every=25, warmup=1)
    losses = []
    best = train(recipe, loop, tmp_path, device="cpu", on_step=lambda step, made: losses.append(made["total"]))
    assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert -1 <= best["cosine"] <= 1 and 0 <= best["told_apart"] <= 1


def test_items_are_the_same_in_every_run(sources):
    recipe = ExtractionRecipe(LookOnceToHear(NET), sources, sources, teacher(), mix=MIX, validation_items=1)
    one, other = recipe.dataset(4, 0)[3], recipe.dataset(4, 0)[3]
    assert all(map(np.array_equal, one, other))
    assert [part.shape for part in one] == [(2, 4000), (2, 4000), (8,)]
    with pytest.raises(IndexError):
        recipe.dataset(4, 0)[4]


def test_scores_of_the_target_and_of_the_mixture(sources):
    recipe = ExtractionRecipe(LookOnceToHear(NET), sources, sources, teacher(), mix=MIX, validation_items=3)
    whole, nothing = (recipe.score_of(lambda scene, name=name: getattr(scene, name)) for name in ("target", "mixture"))
    assert whole["si_sdr"] > 60 and whole["ild_error"] < 1e-3
    assert nothing["si_sdr_gain"] == pytest.approx(0, abs=1e-4)
    assert score_scenes(recipe.judged, [scene.target for scene in recipe.judged], 16000) == whole


def test_the_loss_counts_level_and_survives_silence():
    x = torch.randn(1, 2, 100)
    assert snr_db(x, 0.5 * x).mean().item() == pytest.approx(6.02, abs=0.01)
    silent = torch.zeros(1, 2, 100, requires_grad=True)
    snr_db(torch.zeros(1, 2, 100), silent).sum().backward()
    assert silent.grad is not None and silent.grad.isfinite().all()


def test_the_command_trains_both_parts(folder, tmp_path, capsys):
    teacher().save_pretrained(tmp_path / "teacher")
    common = ["--speech", str(folder), "--held-out-speech", str(folder), "--teacher", str(tmp_path / "teacher")]
    common += ["--steps", "1", "--batch-size", "1", "--seconds", "0.25", "--device", "cpu"]
    assert main(["train", "look-once", *common, "-o", str(tmp_path / "x")]) == 0
    assert "SI-SDR gain" in capsys.readouterr().err
    assert main(["train", "look-once", *common, "--part", "enrolment", "-o", str(tmp_path / "e")]) == 0
    assert (tmp_path / "x" / "best" / "model.safetensors").is_file()
    assert SpeakerEncoder.from_pretrained(tmp_path / "e" / "best").config.faces_front
    assert main(["train", "look-once", *common, "-o", str(tmp_path / "x")]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "look-once", *common, "--part", "ears", "-o", str(tmp_path / "y")]) == 2
    assert "extractor or enrolment" in capsys.readouterr().err
