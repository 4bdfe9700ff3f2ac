"""Discriminators of waveforms: one opinion each, gradients for the generator, features that count once."""

from __future__ import annotations

import torch

from harken.train.waveform_discriminators import (
    PeriodDiscriminator,
    WaveformDiscriminators,
    feature_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_period_discriminators_have_the_papers_size():
    count = sum(p.numel() for period in (2, 3, 5, 7, 11) for p in PeriodDiscriminator(period).parameters())
    assert round(count / 1e6, 1) == 41.1


def test_a_length_that_is_no_multiple_of_the_period_is_fine():
    assert PeriodDiscriminator(7, 1 / 32)(noise(2, 1001)).scores.shape[0] == 2


def test_the_generator_hears_every_opinion():
    members = WaveformDiscriminators(1 / 32)
    made = noise(1, 2200).requires_grad_()
    for opinion in members(made):
        (gradient,) = torch.autograd.grad(hinge_generator_loss(opinion), made, retain_graph=True)
        assert gradient.isfinite().all()
        assert gradient.any()


def test_equal_waveforms_have_equal_features():
    member, x = PeriodDiscriminator(3, 1 / 32), noise(1, 600)
    assert feature_loss(member(x), member(x)) == 0


def test_a_sure_discriminator_has_nothing_to_learn():
    member, x = PeriodDiscriminator(3, 1 / 32), noise(1, 600)
    opinion = member(x)
    sure, unsure = opinion._replace(scores=opinion.scores + 100), opinion._replace(scores=opinion.scores - 100)
    assert hinge_discriminator_loss(sure, unsure) == 0
