"""Waveform to compressed magnitude and phase, and back."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.signal.spectrum import Spectrum, compressed_complex, pad_to_frames


@pytest.mark.parametrize("samples", [201, 400, 999, 1000, 16001])
def test_the_way_there_and_back_is_exact(samples, seed):
    waveform = torch.randn(2, samples, generator=seed)
    spectrum = Spectrum()
    magnitude, phase = spectrum(waveform)
    assert magnitude.shape == phase.shape == (2, 201, 1 + samples // 100)
    assert (spectrum.inverse(magnitude, phase, samples) - waveform).abs().max() < 1e-5


@pytest.mark.parametrize(
    "sizes", [{"n_fft": 64, "hop_length": 16}, {"n_fft": 512, "hop_length": 128, "win_length": 400}]
)
@pytest.mark.parametrize("compression", [0.3, 1.0])
def test_other_sizes_and_exponents_come_back_too(sizes, compression, seed):
    waveform = torch.rand(1, 1003, generator=seed) - 0.5
    spectrum = Spectrum(**sizes, compression=compression)
    assert (spectrum.inverse(*spectrum(waveform), 1003) - waveform).abs().max() < 1e-5


def test_digital_silence_has_finite_gradients():
    waveform = torch.zeros(1, 1600, requires_grad=True)
    spectrum = Spectrum()
    magnitude, phase = spectrum(waveform)
    (magnitude.sum() + phase.sum() + spectrum.inverse(magnitude, phase, 1600).sum()).backward()
    assert waveform.grad.isfinite().all()


def test_a_negative_magnitude_is_silence_not_nan(seed):
    spectrum = Spectrum(64, 16)
    waveform = spectrum.inverse(-torch.rand(1, 33, 10, generator=seed), torch.rand(1, 33, 10, generator=seed), 144)
    assert (waveform == 0).all()


def test_half_precision_spectra_become_a_full_precision_waveform(seed):
    spectrum = Spectrum(64, 16)
    magnitude, phase = (part.bfloat16() for part in spectrum(torch.randn(1, 160, generator=seed)))
    waveform = spectrum.inverse(magnitude.float(), phase, 160)
    assert waveform.dtype == torch.float32
    assert waveform.isfinite().all()
    assert spectrum.inverse(magnitude, phase, 160).dtype == torch.float32


def test_double_precision_stays(seed):
    waveform = torch.randn(1, 160, generator=seed, dtype=torch.float64)
    spectrum = Spectrum(64, 16)
    assert spectrum.inverse(*spectrum(waveform), 160).dtype == torch.float64


def test_the_complex_form_keeps_the_compressed_magnitude(seed):
    magnitude, phase = Spectrum(64, 16)(torch.randn(1, 160, generator=seed))
    assert torch.allclose(compressed_complex(magnitude, phase).norm(dim=-1), magnitude, atol=1e-6)


def test_too_few_samples_are_refused_and_padding_helps():
    with pytest.raises(InputError, match="200 samples are too few for n_fft=400"):
        Spectrum()(torch.zeros(1, 200))
    assert pad_to_frames(torch.ones(1, 3), 400).shape == (1, 400)
    assert pad_to_frames(torch.ones(1, 500), 400).shape == (1, 500)


@pytest.mark.parametrize("sizes", [(400, 0), (400, 500), (0, 100)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(InputError, match="hop_length <= win_length <= n_fft"):
        Spectrum(*sizes)
    with pytest.raises(InputError, match="compression must be positive"):
        Spectrum(compression=0.0)
