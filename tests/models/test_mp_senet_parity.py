"""The authors' tensors: front end, generator, discriminator and losses, one by one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.models.enhance.mp_senet import MPSENet, MPSENetConfig
from harken.papers.parity import check_parity
from harken.signal.phase import phase_distance
from harken.signal.spectrum import compressed_complex
from harken.train.enhancement import normalise
from harken.train.losses import EnhancementLoss
from harken.train.metric_discriminator import MetricDiscriminator

CASE = Path(__file__).parents[1] / "parity/mp-senet"


def part(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


@pytest.fixture(scope="module")
def saved() -> dict[str, torch.Tensor]:
    return load_file(CASE / "io.safetensors")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return load_file(CASE / "weights.safetensors")


@pytest.fixture(scope="module")
def model(weights) -> MPSENet:
    config = MPSENetConfig(
        channels=8, blocks=2, n_fft=64, hop_length=16, win_length=64, axes=("freq", "time"), legacy=True
    )
    return MPSENet.from_authors(part(weights, "generator."), config).eval()


@pytest.fixture(scope="module")
def discriminator(weights) -> MetricDiscriminator:
    return MetricDiscriminator.from_authors(part(weights, "discriminator.")).eval()


def assert_close(ours: torch.Tensor, saved: torch.Tensor) -> None:
    assert ours.shape == saved.shape
    assert float((ours - saved).abs().max()) < json.loads((CASE / "case.json").read_text())["tolerance"]


@torch.inference_mode()
def test_the_front_end(saved, model):
    factor = saved["norm_factor"][:, None]
    for ours, theirs in zip(normalise(saved["noisy"], saved["clean"]), ("noisy", "clean"), strict=True):
        assert_close(ours, saved[theirs] * factor)
        magnitude, phase = model.spectrum(saved[theirs] * factor)
        assert_close(magnitude, saved[f"{theirs}_mag"])
        turned = phase - saved[f"{theirs}_pha"]
        assert_close(2 * math.pi * torch.round(turned / (2 * math.pi)), turned)


@torch.inference_mode()
def test_the_generator_and_its_parts(saved, model):
    magnitude, phase = saved["noisy_mag"], saved["noisy_pha"]
    encoded = model.encoder(magnitude.transpose(1, 2), phase.transpose(1, 2))
    assert_close(encoded, saved["encoder_out"])
    assert_close(model.blocks[0](encoded.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), saved["block0_out"])
    enhanced, enhanced_phase = model(magnitude, phase)
    assert_close(enhanced, saved["mag_g"])
    assert_close(compressed_complex(enhanced, enhanced_phase), saved["com_g"])
    assert_close(model.spectrum.inverse(enhanced, enhanced_phase, 1600), saved["audio_g"])


@torch.inference_mode()
def test_the_discriminator(saved, discriminator):
    assert_close(discriminator(saved["clean_mag"], saved["clean_mag"]), saved["disc_real"])
    assert_close(discriminator(saved["clean_mag"], saved["mag_g_hat"]), saved["disc_fake"])


@torch.inference_mode()
def test_every_loss_and_their_total(saved, model, discriminator):
    _, clean = normalise(saved["noisy"], saved["clean"])
    opinion = discriminator(saved["clean_mag"], saved["mag_g_hat"])
    terms = EnhancementLoss(model.spectrum)(clean, saved["mag_g"], saved["pha_g"], opinion)
    distance = phase_distance(saved["clean_pha"], saved["pha_g"])
    ours = {
        "loss_mag": terms["magnitude"],
        "loss_com": terms["complex"],
        "loss_con": terms["consistency"],
        "loss_time": terms["time"],
        "loss_metric": terms["metric"],
        "loss_ip": distance.instantaneous_phase,
        "loss_gd": distance.group_delay,
        "loss_iaf": distance.instantaneous_frequency,
        "loss_total": terms["total"],
    }
    assert ours.keys() == {name for name in saved if name.startswith("loss_")}
    for name, value in ours.items():
        assert_close(value, saved[name])


def test_the_public_check_passes():
    report = check_parity(CASE)
    assert report.passed, [tensor for tensor in report.tensors if not tensor.passed]
    assert set(report.not_compared) <= {"noisy", "clean"}
