"""The wavelet transform against its definition, PyWavelets, and what makes it linear."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harken.errors import InputError
from harken.signal import wavelet
from harken.signal.wavelet import WaveletTransform, _reference, filter_taps


@pytest.mark.parametrize("name", ["db1", "db2", "db4", "db7", "db10"])
def test_daubechies_filters_are_orthonormal_and_blind_to_polynomials(name):
    low, high = filter_taps(name)
    order = len(low) // 2
    for shift in range(order):
        overlap = low[2 * shift :] @ low[: len(low) - 2 * shift]
        assert overlap == pytest.approx(float(shift == 0), abs=1e-10)
    assert low @ high == pytest.approx(0, abs=1e-12)
    steps = np.arange(len(low)) / len(low)
    for power in range(order):
        assert high @ steps**power == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize(("name", "samples"), [("db4", 64), ("db4", 101), ("db1", 7), ("db4", 14), ("db3", 700)])
@pytest.mark.parametrize("dense", [0, 1 << 20])
def test_one_product_and_level_by_level_equal_the_definition(name, samples, dense, monkeypatch):
    monkeypatch.setattr(wavelet, "_DENSE", dense)
    transform = WaveletTransform(samples, name)
    x = np.random.default_rng(0).standard_normal(samples)
    made = transform(torch.from_numpy(x).float())
    assert made.shape == (transform.coefficients,)
    np.testing.assert_allclose(made.numpy(), _reference(x, name, transform.level), atol=3e-6)


@pytest.mark.parametrize("name", ["db1", "db4", "db12", "sym5", "coif2"])
@pytest.mark.parametrize("samples", [64, 100, 1001])
def test_equals_pywavelets(name, samples):
    pywt = pytest.importorskip("pywt")
    transform = WaveletTransform(samples, name)
    x = np.random.default_rng(1).standard_normal((2, 3, samples))
    theirs = pywt.wavedec(x, name, mode="periodic", axis=-1)
    assert transform.sizes == tuple(part.shape[-1] for part in theirs)
    np.testing.assert_allclose(transform(torch.from_numpy(x).float()).numpy(), np.concatenate(theirs, -1), atol=5e-6)


@pytest.mark.parametrize("samples", [128, 1000])
def test_gradients_pass(samples):
    transform = WaveletTransform(samples).double()
    x = torch.randn(samples, dtype=torch.double, requires_grad=True)
    weights = torch.randn(transform.coefficients, dtype=torch.double)
    (transform(x) @ weights).backward()
    step = torch.randn(samples, dtype=torch.double)
    torch.testing.assert_close(x.grad @ step, transform(step) @ weights, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["db0", "nothing", "gaus1", ""])
def test_unknown_wavelets_are_refused(name):
    pytest.importorskip("pywt")
    with pytest.raises(InputError, match="no discrete wavelet"):
        WaveletTransform(64, name)


@pytest.mark.parametrize("samples", [0, 1, 13])
def test_signals_shorter_than_the_filter_are_refused(samples):
    with pytest.raises(InputError, match="take longer signals"):
        WaveletTransform(samples)
    with pytest.raises(InputError, match="allow 1 to 3 levels"):
        WaveletTransform(64, level=4)


@pytest.mark.border
def test_a_signal_of_another_length_is_refused():
    with pytest.raises(InputError, match="expected signals of 64 samples, got 65"):
        WaveletTransform(64)(torch.zeros(2, 65))
