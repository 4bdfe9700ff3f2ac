"""The two encoders of talkers: loudness does not count, clips of any length do, foreign weights are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models.separate.enrolment import EnrolmentConfig, EnrolmentNet
from harken.models.separate.speaker_encoder import SpeakerEncoder, SpeakerEncoderConfig

NET = EnrolmentConfig(embedding_dim=8, n_fft=16, hop_length=8, channels=4, blocks=2, hidden=3, heads=2, query_size=20)
ENCODER = SpeakerEncoderConfig(embedding_dim=8, hidden=6, layers=2, bands=10, partial=20, step=10)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def net(**changes):
    torch.manual_seed(0)
    return EnrolmentNet(replace(NET, **changes)).eval()


def encoder(**changes):
    torch.manual_seed(0)
    return SpeakerEncoder(replace(ENCODER, **changes)).eval()


@pytest.mark.parametrize("make", [net, encoder])
def test_loudness_does_not_count(make):
    model, clip = make(), noise(2, 2, 6000)
    torch.testing.assert_close(model.embed(clip), model.embed(clip * 1e-3), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("make", [net, encoder])
def test_a_row_of_a_batch_is_the_row_alone(make):
    model, clips = make(), noise(3, 2, 5000)
    torch.testing.assert_close(model.embed(clips)[1:2], model.embed(clips[1:2]), atol=1e-5, rtol=1e-4)


def test_the_papers_enrolment_keeps_its_size():
    with torch.device("meta"):
        model = EnrolmentNet(EnrolmentConfig.paper())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(2.37, abs=0.01)


@pytest.mark.parametrize("samples", [9, 16, 100])
def test_short_clips_are_filled_up(samples):
    assert net().embed(noise(1, 2, samples)).isfinite().all()


def test_an_encoder_without_a_clip_worth_a_part_fills_it_up():
    found = encoder().embed(noise(1, 1, 800))
    assert found.norm(dim=-1).item() == pytest.approx(1, abs=1e-4)


def test_who_faces_the_front_hears_less_from_the_side():
    time = torch.arange(6000) / 16000
    front, side = (torch.sin(2 * torch.pi * hertz * time).view(1, 1, -1) for hertz in (500, 3000))
    both_ears = torch.cat((front + side, front), 1)  # from the left: the right ear hears nothing of it
    plain = encoder()
    turned = plain.facing_front()
    shares = [(mels[..., 5:].sum() / mels.sum()).item() for mels in (plain.mel(both_ears), turned.mel(both_ears))]
    assert shares[1] < 0.1 * shares[0]
    torch.testing.assert_close(turned.embed(front), plain.embed(front), atol=1e-4, rtol=1e-3)


def test_an_encoder_that_faces_the_front_is_saved_and_found_again(tmp_path):
    (tmp_path / "README.md").write_text("a card")
    turned, clip = encoder().facing_front(), noise(1, 2, 4000)
    turned.save_pretrained(tmp_path)
    torch.testing.assert_close(SpeakerEncoder.from_pretrained(tmp_path).embed(clip), turned.embed(clip))


def test_gradients_are_finite_in_silence():
    for model in (net().train(), encoder().facing_front().train()):
        model(torch.cat((noise(1, 2, 3000), torch.zeros(1, 2, 3000)), -1)).square().sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_published_encoders_are_read():
    state = {"model_state": {**encoder().state_dict(), "similarity_weight": torch.ones(1)}, "step": 3}
    made = SpeakerEncoder.from_authors(state, ENCODER)
    clip = noise(1, 1, 4000)
    torch.testing.assert_close(made.embed(clip), encoder().embed(clip))


@pytest.mark.parametrize("kind", [EnrolmentNet, SpeakerEncoder])
def test_other_weights_are_refused(kind):
    for state in ({}, {"lstm.weight_ih_l0": torch.zeros(2), "linear.weight": 3}, {"embed_proj.0.weight": 3}):
        with pytest.raises(CheckpointError):
            kind.from_authors(state)


@pytest.mark.border
def test_too_few_samples_or_ears_are_told():
    with pytest.raises(InputError, match="2 ears and more than 8 samples"):
        net().embed(noise(1, 1, 100))
    with pytest.raises(InputError):
        replace(NET, heads=3)
    with pytest.raises(InputError):
        replace(ENCODER, layers=0)
