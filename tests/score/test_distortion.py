from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harken.errors import InputError
from harken.score import log_spectral_distance, segmental_snr, si_sdr

TIME = np.arange(8000) / 8000
TONE, OTHER = np.sin(2 * np.pi * 200 * TIME), np.cos(2 * np.pi * 200 * TIME)  # orthogonal, of equal energy


@pytest.mark.parametrize("snr", [-20.0, 0.0, 13.0, 40.0])
def test_si_sdr_of_orthogonal_noise_is_its_snr(snr):
    assert si_sdr(TONE, TONE + OTHER * 10 ** (-snr / 20)) == pytest.approx(snr, abs=1e-4)


@given(
    gain=st.floats(1e-4, 1e4),
    sign=st.sampled_from([-1, 1]),
    offset=st.floats(-10, 10),
    of_reference=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_si_sdr_ignores_scale_polarity_and_mean(gain, sign, offset, of_reference):
    estimate = TONE + 0.3 * OTHER
    changed = sign * gain * (TONE if of_reference else estimate) + offset
    pair = (changed, estimate) if of_reference else (TONE, changed)
    assert si_sdr(*pair) == pytest.approx(si_sdr(TONE, estimate), abs=1e-6)


def test_si_sdr_without_zero_mean_counts_an_offset_as_noise():
    assert si_sdr(TONE, TONE + 0.5, zero_mean=False) < 10 < si_sdr(TONE, TONE + 0.5)


def test_si_sdr_is_bounded_and_nan_for_silence():
    assert si_sdr(TONE, TONE) == pytest.approx(100, abs=0.1)
    assert si_sdr(TONE, OTHER) == pytest.approx(-100, abs=0.1)
    assert np.isnan(si_sdr(TONE, 0 * TONE))
    assert np.isnan(si_sdr(0 * TONE, TONE))


def test_si_sdr_of_a_batch_of_tensors_equals_that_of_arrays():
    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(2, 3, 4000, generator=generator, dtype=torch.float64)
    estimate = reference + torch.randn(2, 3, 4000, generator=generator, dtype=torch.float64)
    expected = [
        si_sdr(a.numpy(), b.numpy()) for a, b in zip(reference.flatten(0, 1), estimate.flatten(0, 1), strict=True)
    ]
    assert torch.allclose(si_sdr(reference, estimate).flatten(), torch.tensor(expected, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("case", ["noise", "equal", "silent estimate", "silent reference", "both silent"])
def test_si_sdr_has_finite_gradients(case):
    reference = torch.randn(2, 400, generator=torch.Generator().manual_seed(0))
    estimate = {"noise": reference.flip(0), "equal": reference, "silent reference": reference}.get(case, 0 * reference)
    if "reference" in case or "both" in case:
        reference = 0 * reference
    estimate = estimate.clone().requires_grad_()
    loss = -si_sdr(reference, estimate).mean()
    loss.backward()
    assert loss.isfinite() and estimate.grad.isfinite().all()


def test_a_step_along_the_gradient_raises_si_sdr():
    reference, start = torch.randn(2, 1, 400, generator=torch.Generator().manual_seed(0))
    start = start.requires_grad_()
    before = si_sdr(reference, start)
    (gradient,) = torch.autograd.grad(before.sum(), start)
    assert si_sdr(reference, start + 0.1 * gradient) > before


def test_tensors_of_different_shapes_are_refused():
    with pytest.raises(InputError, match=r"one shape, got \(2, 100\) and \(100,\)"):
        si_sdr(torch.ones(2, 100), torch.ones(100))


def test_segmental_snr_of_a_gain_error_and_its_limits():
    assert segmental_snr(TONE, 0.9 * TONE, 8000) == pytest.approx(20)
    assert segmental_snr(TONE, TONE, 8000) == 35
    assert segmental_snr(TONE, 100 * OTHER, 8000) == -10


def test_segmental_snr_gives_quiet_and_loud_frames_equal_say():
    half = len(TONE) // 2
    clean = np.concatenate((TONE[:half], 0.1 * TONE[:half]))
    estimate = clean + 0.1 * np.concatenate((OTHER[:half], OTHER[:half]))
    assert segmental_snr(clean, estimate, 8000) == pytest.approx(10, abs=0.3)


def test_less_than_a_frame_is_refused():
    with pytest.raises(InputError, match="100 samples: at least one frame of 30 ms"):
        segmental_snr(TONE[:100], TONE[:100], 8000)


def test_log_spectral_distance_equals_its_definition_by_torch():
    generator = torch.Generator().manual_seed(0)
    pair = torch.randn(2, 9000, generator=generator, dtype=torch.float64)
    pair[1, 3000:] = 0  # powers below the floor
    window = torch.hann_window(2048, dtype=torch.float64)
    powers = torch.stft(pair, 2048, 512, window=window, return_complex=True).abs().square().clamp_min(1e-8)
    expected = powers.log10().diff(dim=0).square().mean(1).sqrt().mean()
    assert log_spectral_distance(*pair.numpy()) == pytest.approx(expected.item(), rel=1e-9)


def test_log_spectral_distance_is_zero_for_equal_signals_and_symmetric():
    assert log_spectral_distance(TONE, TONE) == 0
    assert log_spectral_distance(TONE, OTHER) == log_spectral_distance(OTHER, TONE)


def test_log_spectral_distance_of_too_little_is_refused():
    with pytest.raises(InputError, match="more than n_fft // 2 = 1024"):
        log_spectral_distance(TONE[:1024], TONE[:1024])
