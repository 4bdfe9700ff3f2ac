"""The matrix form of the windowed sinc against the sum that defines it, and what a resampler must keep."""

from __future__ import annotations

import math

import pytest
import torch

from harken.errors import InputError
from harken.signal.sinc_resampling import SincResampler


def by_definition(x, source, target, zeros=24, rolloff=0.945):
    """One output sample at a time."""
    cutoff = min(source, target) * rolloff
    reach = math.ceil(zeros * source / cutoff)
    held = torch.cat((x[:1].expand(reach), x, x[-1:].expand(reach + source)))
    made = []
    for j in range(len(x) * target // source):
        frame, phase = divmod(j, target)
        i = torch.arange(-reach, reach + source, dtype=torch.float64)
        t = ((i / source - phase / target) * cutoff).clamp(-zeros, zeros)
        taps = torch.sinc(t) * torch.cos(math.pi * t / 2 / zeros) ** 2
        made.append((held[frame * source + reach + i.long()] * taps).sum() / taps.sum())
    return torch.stack(made)


@pytest.mark.parametrize("ratio", [(1, 2), (2, 1), (3, 2), (160, 441)])
@pytest.mark.parametrize("samples", [500, 131])
def test_equals_its_definition(ratio, samples):
    x = torch.randn(samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(SincResampler(*ratio)(x), by_definition(x, *ratio), atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_the_shortest_signals(samples):
    x = torch.ones(1, samples)
    torch.testing.assert_close(SincResampler(1, 2)(x), torch.ones(1, 2 * samples))
    assert SincResampler(2, 1)(x).shape == (1, samples // 2)


def test_up_and_down_again_keeps_what_lies_below_the_cutoff():
    x = torch.sin(torch.arange(2000) * 0.8 * math.pi)
    again = SincResampler(2, 1)(SincResampler(1, 2)(x))
    assert (again - x)[60:-60].abs().max() < 1e-3


def test_a_signal_above_the_new_half_rate_is_removed():
    x = torch.sin(torch.arange(4000) * 0.7 * math.pi)
    assert SincResampler(2, 1)(x)[60:-60].abs().max() < 1e-2


def test_gradients_reach_every_sample():
    x = torch.randn(2, 1, 300, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: SincResampler(1, 2)(x)[..., ::37], x, fast_mode=True)


def test_rates_in_a_bad_ratio_are_refused():
    with pytest.raises(InputError, match="soxr"):
        SincResampler(44100, 44101)
    with pytest.raises(InputError, match="positive"):
        SincResampler(0, 2)
