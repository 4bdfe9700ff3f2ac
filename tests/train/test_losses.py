"""What the enhancers are trained on: zero for the truth, finite on silence, and in the right direction."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch

from harken.errors import InputError
from harken.signal.spectrum import Spectrum
from harken.train.losses import EnhancementLoss, EnhancementWeights, LoudnessDistance


@pytest.fixture
def spectrum() -> Spectrum:
    return Spectrum(64, 16)


def test_the_truth_costs_nothing(spectrum, seed):
    clean = torch.randn(2, 800, generator=seed)
    weights = EnhancementWeights(loudness=1.0)
    terms = EnhancementLoss(spectrum, weights=weights)(clean, *spectrum(clean), torch.ones(2, 1))
    assert terms.keys() == {field.name for field in fields(weights)} | {"total"}
    assert float(terms["loudness"]) < 1e-4
    assert all(float(value) < 1e-4 for value in terms.values())


def test_the_total_is_the_weighted_sum(spectrum, seed):
    clean, other = torch.randn(2, 2, 800, generator=seed)
    weights = EnhancementWeights(1, 2, 3, 4, 5, 6, 7)
    terms = EnhancementLoss(spectrum, weights=weights)(clean, *spectrum(other), torch.zeros(2, 1))
    expected = sum(getattr(weights, name) * float(value) for name, value in terms.items() if name != "total")
    assert float(terms["total"]) == pytest.approx(expected, rel=1e-5)


def test_terms_that_weigh_nothing_and_cost_much_are_left_out(spectrum, seed):
    clean = torch.randn(1, 800, generator=seed)
    terms = EnhancementLoss(spectrum, weights=EnhancementWeights(consistency=0.0))(clean, *spectrum(clean))
    assert not terms.keys() & {"consistency", "loudness", "metric"}


def test_a_spectrum_that_no_waveform_has_is_inconsistent(spectrum, seed):
    clean = torch.randn(1, 800, generator=seed)
    magnitude, phase = spectrum(clean)
    loss = EnhancementLoss(spectrum)
    scrambled = loss(clean, magnitude, phase.flip(2))
    assert float(scrambled["consistency"]) > 100 * float(loss(clean, magnitude, phase)["consistency"])


def test_loudness_grows_with_noise_and_dislikes_added_noise_more_than_missing_sound(seed):
    distance = LoudnessDistance()
    # a voice with pauses, in which noise is heard
    clean = torch.randn(1, 16000, generator=seed) * (torch.arange(16000) // 4000 % 2)
    noise = torch.randn(1, 16000, generator=seed)
    added = [float(distance(clean, clean + level * noise)) for level in (0.0, 0.01, 0.1, 1.0)]
    assert added == sorted(added)
    assert added[0] < 1e-4
    assert float(distance(clean, clean + 0.1 * noise)) > float(distance(clean + 0.1 * noise, clean))


def test_loudness_does_not_depend_on_the_recording_level(seed):
    distance = LoudnessDistance()
    clean, noise = torch.randn(2, 1, 8000, generator=seed)
    once = distance(clean, clean + 0.3 * noise)
    assert float(distance(0.01 * clean, 0.01 * (clean + 0.3 * noise))) == pytest.approx(float(once), rel=1e-3)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
@pytest.mark.parametrize("silent", ["reference", "estimate", "both"])
def test_loudness_is_finite_on_silence_at_any_rate(rate, silent, seed):
    reference, estimate = torch.randn(2, 1, rate // 4, generator=seed)
    reference = reference * (silent == "estimate")
    estimate = (estimate * (silent == "reference")).requires_grad_()
    loss = LoudnessDistance(rate)(reference, estimate)
    loss.backward()
    assert loss.isfinite()
    assert estimate.grad.isfinite().all()


def test_less_than_a_frame_is_refused_in_one_line():
    with pytest.raises(InputError, match="320 samples are too few"):
        LoudnessDistance()(torch.zeros(1, 320), torch.zeros(1, 320))


def test_weights_are_those_of_the_released_code():
    weights = EnhancementWeights()
    assert weights == EnhancementWeights(0.9, 0.3, 0.1, 0.1, 0.05, 0.2, 0.0)
    assert replace(weights, loudness=0.3).loudness == 0.3
