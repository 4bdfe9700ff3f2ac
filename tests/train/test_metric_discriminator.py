"""The discriminator that learns PESQ."""

from __future__ import annotations

import torch

from harken.train.metric_discriminator import MetricDiscriminator


def test_it_has_the_paper_s_size():
    model = MetricDiscriminator()
    assert abs(sum(parameter.numel() for parameter in model.parameters()) - 0.18e6) < 0.005e6


def test_scores_lie_between_none_and_full_for_any_length(seed):
    model = MetricDiscriminator(width=4)
    for frames in (16, 41):
        reference, estimate = torch.rand(2, 3, 33, frames, generator=seed)
        score = model(reference, estimate)
        assert score.shape == (3, 1)
        assert ((score > 0) & (score < 1)).all()


def test_it_learns_to_tell_good_from_bad(seed):
    model = MetricDiscriminator(width=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    clean = torch.rand(8, 33, 40, generator=seed)
    bad = clean + torch.rand(8, 33, 40, generator=seed)
    for _ in range(30):
        loss = (model(clean, clean) - 0.9).square().mean() + (model(clean, bad) - 0.1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.inference_mode():
        assert float(model(clean, clean).mean() - model(clean, bad).mean()) > 0.4


def test_silence_has_finite_gradients():
    model = MetricDiscriminator(width=4)
    model(torch.zeros(2, 33, 20), torch.zeros(2, 33, 20)).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
