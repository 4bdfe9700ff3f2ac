"""Temporal response functions: one eigendecomposition equals solves, filters are recovered, lags are right."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.signal.speech_features import frames_at, log_mel, speech_envelope
from harken.signal.temporal_response import (
    Moments,
    _ridge_path_reference,
    correlation,
    fit_temporal_response,
    lag_range,
    lagged,
    leave_one_out,
    ridge_path,
)

PATH = (1e-3, 1e-1, 1.0, 1e2, 1e5)


@pytest.fixture
def trials(seed) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 120, 3, generator=seed, dtype=torch.float64)
    return x, torch.randn(4, 120, 2, generator=seed, dtype=torch.float64) + x[..., :2]


def test_every_regularization_equals_its_own_solve(trials):
    moments = Moments.of(*trials, range(-2, 5))
    torch.testing.assert_close(
        ridge_path(moments, PATH, 50.0), _ridge_path_reference(moments, PATH, 50.0), rtol=1e-7, atol=1e-7
    )


def test_without_regularization_a_noiseless_filter_is_recovered(seed):
    x = torch.randn(2, 300, 2, generator=seed)
    truth = torch.randn(2, 4, 1, generator=seed)
    y = 3.0 + lagged(x, range(4)) @ truth.transpose(0, 1).flatten(0, 1)
    found = fit_temporal_response(x, y, 10.0, 0.0, 0.3, regularization=0.0)
    torch.testing.assert_close(found.weights / 10, truth, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.bias / 10, torch.tensor([3.0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.predict(x), y, atol=1e-3, rtol=1e-3)


def test_channels_that_repeat_do_no_harm_even_without_regularization(trials):
    x, y = trials
    twice = fit_temporal_response(torch.cat((x, x), -1), y, 1.0, 0.0, 2.0, regularization=0.0)
    once = fit_temporal_response(x, y, 1.0, 0.0, 2.0, regularization=0.0)
    torch.testing.assert_close(twice.predict(torch.cat((x, x), -1)), once.predict(x), atol=1e-6, rtol=1e-6)


def test_lags_take_what_came_before_and_backward_ones_what_comes_after():
    x = torch.tensor([[1.0], [2.0], [3.0]])
    assert lagged(x, (-1, 0, 2)).tolist() == [[2, 1, 0], [3, 2, 0], [0, 3, 1]]
    assert lag_range(-0.05, 0.3, 64.0) == tuple(range(-4, 21))
    assert lag_range(-0.05, 0.3, 64.0, "backward") == tuple(range(-20, 5))
    assert lag_range(0.0, 0.3, 10.0) == (0, 1, 2, 3)


def test_leaving_one_out_equals_fitting_on_the_rest(trials):
    x, y = trials
    scores = leave_one_out(x, y, 1.0, range(3), PATH)
    rest = torch.tensor([0, 1, 3])
    found = fit_temporal_response(x[rest], y[rest], 1.0, 0.0, 2.0, regularization=PATH)
    expected = torch.stack([correlation(one.predict(x[2]), y[2], dim=0) for one in found])
    torch.testing.assert_close(scores[2], expected)


def test_what_cannot_be_fitted_is_refused(trials):
    x, y = trials
    with pytest.raises(InputError, match="tmin below tmax"):
        lag_range(0.3, 0.1, 64.0)
    with pytest.raises(InputError, match="at least 0"):
        ridge_path(Moments.of(x, y, (0,)), (-1.0,), 1.0)
    with pytest.raises(InputError, match="too many"):
        Moments.of(x, y, range(10_000))
    with pytest.raises(InputError, match="two trials"):
        leave_one_out(x[:1], y[:1], 1.0, (0,), PATH)


def test_a_constant_correlates_with_nothing(seed):
    assert correlation(torch.ones(5), torch.randn(5, generator=seed)) == 0


def test_envelopes_follow_loudness_and_mel_frames_keep_time(seed):
    wave = torch.randn(32000, generator=seed)
    wave[16000:] *= 0.01
    envelope = speech_envelope(wave, 16000, 50.0)
    assert envelope.shape == (100,)
    assert envelope[:45].min() > 2 * envelope[55:].max()
    mel = log_mel(wave, 16000, bands=8)
    assert frames_at(mel, 100.0, 64.0, 128).shape == (8, 128)
    with pytest.raises(InputError, match="between 0 and 4000"):
        speech_envelope(wave, 16000, 9000.0)
