"""Linear prediction: known models are found again, and what must not matter does not."""

from __future__ import annotations

import math

import pytest
import torch

from harken.errors import InputError
from harken.signal.lpc import (
    _burg,
    burg,
    cepstrum,
    from_cepstrum,
    poles,
    power_spectrum,
    step_up,
    unwarped,
    warped,
)


def signals(count=5, samples=300, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, samples + 2, dtype=torch.float64, generator=generator)
    return noise[:, 2:] + 0.9 * noise[:, 1:-1] - 0.4 * noise[:, :-2]


def _reference(x: torch.Tensor, order: int, warp: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The recursion as it is written down, one sample of one signal at a time."""
    f, b = x.tolist(), x.tolist()
    error, found = sum(v * v for v in f) / len(f), []
    for _ in range(order):
        c = [b[0] - warp * b[1]]
        for t in range(1, len(b) - 1):
            c.append(b[t] - warp * (b[t + 1] - c[t - 1]))
        f = f[1:]
        k = -2 * sum(p * q for p, q in zip(f, c, strict=True)) / sum(p * p + q * q for p, q in zip(f, c, strict=True))
        f, b = [p + k * q for p, q in zip(f, c, strict=True)], [q + k * p for p, q in zip(f, c, strict=True)]
        error *= 1 - k * k
        found.append(k)
    return torch.tensor(found, dtype=torch.float64), torch.tensor(error, dtype=torch.float64)


@pytest.mark.parametrize("warp", [0.0, 0.2, -0.5, 0.9])
@pytest.mark.parametrize("samples", [33, 64, 150])
def test_all_at_once_equals_one_sample_at_a_time(warp, samples):
    x = signals(3, samples)
    model = burg(x, 6, warp)
    for row, k, error in zip(x, model.reflection, model.error, strict=True):
        expected, left = _reference(row, 6, warp)
        torch.testing.assert_close(k, expected, atol=1e-10, rtol=1e-8)
        torch.testing.assert_close(error, left)


def test_a_nearly_perfect_prediction_keeps_its_digits():
    time = torch.arange(400, dtype=torch.float64)
    x = torch.sin(0.3 * time)[None] + 1e-5 * signals(1, 400)
    for warp in (0.0, 0.2):
        model = burg(x, 8, warp)
        expected, left = _reference(x[0], 8, warp)
        torch.testing.assert_close(model.reflection[0], expected, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(model.error[0], left, rtol=1e-5, atol=0)


def test_a_known_process_is_found_and_better_the_longer_it_is():
    truth = torch.tensor([-1.3, 0.8])
    errors = []
    for samples in (500, 8000):
        noise = torch.randn(20, samples + 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = torch.zeros_like(noise)
        for t in range(2, x.shape[1]):
            x[:, t] = noise[:, t] - truth[0] * x[:, t - 1] - truth[1] * x[:, t - 2]
        model = burg(x[:, 200:], 2)
        errors.append(float((model.coefficients - truth).square().mean().sqrt()))
    assert errors[1] < 0.02
    assert 2 < errors[0] / errors[1] < 8  # about the root of 16
    assert float(model.error.mean()) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("warp", [0.0, 0.3])
def test_models_are_stable_and_more_poles_leave_less(warp):
    model = burg(signals(), 12, warp)
    assert float(model.reflection.abs().max()) < 1
    assert float(poles(model.coefficients).abs().max()) < 1
    left = torch.stack([burg(signals(), order, warp).error for order in (1, 4, 12)])
    assert bool((left.diff(dim=0) <= 0).all())


def test_louder_is_the_same_model_with_more_power():
    soft, loud = burg(signals() * 1e-5, 8, 0.2), burg(signals() * 1e3, 8, 0.2)
    torch.testing.assert_close(soft.coefficients, loud.coefficients)
    torch.testing.assert_close(loud.error.log10() - soft.error.log10(), torch.full((5,), 16.0, dtype=torch.float64))


def test_unwarping_undoes_warping_and_moves_poles():
    a = burg(signals(), 10).coefficients
    torch.testing.assert_close(unwarped(warped(a, 0.3), 0.3), a)
    before, after = poles(a), poles(warped(a, 0.3))
    moved = (before - 0.3) / (1 - 0.3 * before)
    for one, other in zip(moved, after, strict=True):
        assert float((one[:, None] - other[None]).abs().amin(1).max()) < 1e-9


def test_cepstrum_and_coefficients_are_one_another():
    model = burg(signals(), 7)
    terms = cepstrum(model.coefficients, model.error)
    a, error = from_cepstrum(terms, 7)
    torch.testing.assert_close(a, model.coefficients)
    torch.testing.assert_close(error, model.error)
    # and they are the series of the log spectrum
    many = cepstrum(model.coefficients, model.error, 200)
    frequency = torch.tensor([0.11], dtype=torch.float64)
    angles = 2 * math.pi * frequency * torch.arange(1, 200)
    series = many[:, :1] + 2 * many[:, 1:] @ angles.cos()[:, None]
    torch.testing.assert_close(power_spectrum(*model[:2], frequency, 1.0).log() - math.log(2), series)


@pytest.mark.parametrize("warp", [0.0, 0.2, 0.6])
def test_the_area_of_a_spectrum_is_the_power(warp):
    x, frequencies = signals(), torch.linspace(0, 250, 4001)
    model = burg(x, 12, warp)
    spectrum = power_spectrum(model.coefficients, model.error, frequencies, 500.0, warp)
    torch.testing.assert_close(torch.trapezoid(spectrum, frequencies.double()), x.square().mean(1), rtol=1e-4, atol=0)


def test_silence_and_gradients_are_finite():
    x = signals(2, 60).float()
    x[1] = 0
    model = burg(x, 4, 0.2)
    assert not model.coefficients[1].any()
    assert not model.error[1]
    leaf = signals(2, 60).requires_grad_()
    burg(leaf, 4, 0.2).error.log().sum().backward()
    slope = leaf.grad.clone()
    step = 1e-6 * torch.randn(leaf.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        ends = [float(burg(leaf + way * step, 4, 0.2).error.log().sum()) for way in (1, -1)]
    assert (ends[0] - ends[1]) / 2 == pytest.approx(float((slope * step).sum()), rel=1e-5)


def test_any_leading_shape_and_any_block_give_the_same():
    x = signals(6)
    stacked = burg(x.view(2, 3, -1), 5, 0.2)
    assert stacked.coefficients.shape == (2, 3, 5)
    torch.testing.assert_close(stacked.coefficients.view(6, 5), burg(x, 5, 0.2).coefficients)
    torch.testing.assert_close(step_up(_burg(x[:1], 5, 0.2)[0]), stacked.coefficients[0, :1])


def test_what_cannot_be_modelled_is_refused():
    for order, warp, message in (
        (0, 0.0, "expected an order"),
        (30, 0.0, "expected an order"),
        (3, 1.0, "warp between"),
    ):
        with pytest.raises(InputError, match=message):
            burg(torch.zeros(1, 60), order, warp)
    with pytest.raises(InputError, match="needs 4 cepstral terms"):
        from_cepstrum(torch.zeros(1, 3), 3)
