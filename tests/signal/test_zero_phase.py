"""Fast filters are SciPy's slow ones, and delay nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import signal

from harken.errors import InputError
from harken.signal.zero_phase import fast_length, kaiser_taps, zero_phase


@pytest.mark.parametrize(("low", "high"), [(1.0, 100.0), (None, 80.0), (50.0, None)])
def test_taps_are_those_of_firwin(low, high):
    ours = kaiser_taps(1000.0, 20.0, low=low, high=high)
    edges = [edge for edge in (low, high) if edge]
    kind = {(True, True): False, (False, True): True, (True, False): False}[(low is not None, high is not None)]
    theirs = signal.firwin(165, edges, width=20, pass_zero=kind, fs=1000)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)


@pytest.mark.parametrize("padding", [0, 7, None])
def test_it_is_filtfilt(padding, seed):
    x, taps = torch.randn(2, 3, 700, generator=seed, dtype=torch.float64) + 5, kaiser_taps(1000.0, 60.0, high=100.0)
    expected = signal.filtfilt(taps.numpy(), 1, x.numpy(), padlen=padding)
    np.testing.assert_allclose(zero_phase(x, taps, padding=padding).numpy(), expected, atol=1e-10)


def test_a_pulse_stays_symmetric_and_gradients_flow():
    x = torch.zeros(401, dtype=torch.float64)
    x[200] = 1
    x.requires_grad_()
    y = zero_phase(x, kaiser_taps(1000.0, 60.0, low=20.0, high=100.0))
    torch.testing.assert_close(y, y.flip(0), atol=1e-12, rtol=0)
    y.square().sum().backward()
    assert x.grad.isfinite().all()


def test_fast_lengths_have_small_factors():
    for length in range(1, 400):
        found = fast_length(length)
        rest = found
        for factor in (2, 3, 5):
            while rest % factor == 0:
                rest //= factor
        assert rest == 1
        assert length <= found < 2 * length


@pytest.mark.border
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kaiser_taps(100.0, 5.0, low=60.0), "edges"),
        (lambda: kaiser_taps(100.0, 5.0, low=20.0, high=10.0), "edges"),
        (lambda: kaiser_taps(100.0, 70.0, high=10.0), "transition"),
        (lambda: zero_phase(torch.zeros(1), torch.ones(3)), "two samples"),
        (lambda: zero_phase(torch.zeros(5), torch.ones(3), padding=5), "padding"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
