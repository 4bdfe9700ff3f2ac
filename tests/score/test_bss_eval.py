from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.score.bss_eval import bss_eval


def noises(count: int = 3, samples: int = 6000) -> torch.Tensor:
    return torch.randn(count, samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_leakage_shows_in_sir_and_noise_in_sar():
    one, two, noise = noises()
    clean = torch.stack((one, two))
    leaking = bss_eval(clean, torch.stack((one + 0.1 * two, two)), filter_length=32)
    noisy = bss_eval(clean, torch.stack((one + 0.1 * noise, two)), filter_length=32)
    assert float(leaking.sir[0]) == pytest.approx(20, abs=0.5) and leaking.sar[0] > 60
    assert float(noisy.sar[0]) == pytest.approx(20, abs=0.5) and noisy.sir[0] > 35


def test_a_filter_of_the_reference_is_forgiven():
    clean = noises(2)
    delayed = clean.roll(5, -1)
    delayed[:, :5] = 0
    assert (bss_eval(clean, 0.3 * delayed, filter_length=32).sdr > 30).all()


def test_two_decompositions_agree_with_least_squares():
    clean, estimates = noises(2, 400), noises(4, 400)[2:] + noises(2, 400)
    taps = 4
    padded = torch.nn.functional.pad(clean, (0, taps - 1))
    copies = torch.stack([padded[:, :].roll(tap, -1) for tap in range(taps)], 1)  # (sources, taps, samples)
    goal = torch.nn.functional.pad(estimates, (0, taps - 1))
    for number in range(2):
        own, every = copies[number].T, copies.flatten(0, 1).T
        target, explained = (basis @ torch.linalg.lstsq(basis, goal[number]).solution for basis in (own, every))
        expected = [
            10 * torch.log10(above.square().sum() / below.square().sum())
            for above, below in (
                (target, goal[number] - target),
                (target, explained - target),
                (explained, goal[number] - explained),
            )
        ]
        found = [values[number] for values in bss_eval(clean, estimates, filter_length=taps)]
        torch.testing.assert_close(torch.stack(found), torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_windows_of_silence_have_no_value():
    clean = noises(2, 4000)
    clean[0, :2000] = 0
    windows = bss_eval(clean, clean + 0.1 * noises(4, 4000)[2:], filter_length=16, window=1000).sdr
    assert windows.shape == (2, 4) and windows[0, :2].isnan().all() and windows[0, 2:].isfinite().all()


@pytest.mark.border
@pytest.mark.parametrize(
    ("references", "estimates", "message"),
    [
        (torch.ones(1, 900), torch.ones(1, 900), "two sources"),
        (torch.ones(2, 900), torch.ones(2, 800), "of one shape"),
        (torch.ones(2, 300), torch.ones(2, 300), "fewer than"),
        (torch.zeros(2, 900), torch.ones(2, 900), "silent"),
    ],
)
def test_what_cannot_be_scored_is_named(references, estimates, message):
    with pytest.raises(InputError, match=message):
        bss_eval(references, estimates)
