"""AP-BWE: what it leaves alone, what a frame depends on, and what it says to bad input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models.enhance.ap_bwe import APBWE, APBWEConfig

TINY = APBWEConfig(channels=8, layers=2, n_fft=64, hop_length=16, win_length=64)


def build(**changes):
    torch.manual_seed(0)
    return APBWE(replace(TINY, **changes)).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_papers_size():
    with torch.device("meta"):
        model = APBWE(APBWEConfig())
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(29.76, abs=0.01)


def test_analysis_and_synthesis_are_a_round_trip():
    model, x = build(), noise(2, 1600)
    torch.testing.assert_close(model.synthesise(*model.analyse(x), 1600), x, atol=2e-3, rtol=0)


def test_with_nothing_to_add_the_amplitude_stays():
    model, x = build(), noise(1, 800)
    torch.nn.init.zeros_(model.to_amplitude.weight)
    torch.nn.init.zeros_(model.to_amplitude.bias)
    given = model.analyse(x)
    torch.testing.assert_close(model(*given)[0], given[0])


def test_a_frame_depends_on_its_reach_alone():
    model = build().double()
    amplitude, phase = (part.double() for part in build().analyse(noise(1, 1600)))
    changed = amplitude.clone()
    changed[..., 50] += 1
    difference = (model(amplitude, phase)[0] - model(changed, phase)[0]).abs().amax((0, 1))
    assert difference.nonzero().flatten().tolist() == list(range(50 - model.reach, 50 + model.reach + 1))


def test_pieces_are_the_whole():
    model = build()
    amplitude, phase = model.analyse(noise(1, 1600))
    whole, reach = model(amplitude, phase)[0], model.reach
    piece = slice(40 - reach, 60 + reach)
    part = model(amplitude[..., piece], phase[..., piece])[0][..., reach:-reach]
    torch.testing.assert_close(part, whole[..., 40:60])


def test_extending_is_analysis_prediction_and_synthesis():
    model, x = build(), noise(2, 800)
    with torch.inference_mode():
        wanted = model.synthesise(*model(*model.analyse(x)), 800)
        torch.testing.assert_close(model.extend(x), wanted, atol=1e-5, rtol=1e-4)


def test_pieces_of_a_waveform_with_their_context_are_the_whole():
    model, x = build(), noise(1, 1600)
    with torch.inference_mode():
        whole = model.extend(x)
        first, last = 640 - model.context, 800 + model.context
        piece = model.extend(x[:, first:last])[:, model.context : -model.context]
    assert model.context % model.hop_length == 0
    torch.testing.assert_close(piece, whole[:, 640:800], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("preset", [APBWEConfig.small, APBWEConfig.paper])
def test_presets_are_the_papers_pairs_of_rates(preset):
    assert (preset(48000, 12000).sample_rate, preset(48000, 12000).source_rate) == (48000, 12000)
    with pytest.raises(InputError, match="no preset extends 44100 Hz to 48000 Hz"):
        preset(48000, 44100)


def test_a_row_of_a_batch_is_the_row_alone():
    model, x = build(), noise(3, 800)
    torch.testing.assert_close(model.extend(x)[1:2], model.extend(x[1:2]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("samples", [1, 63, 64, 801])
def test_any_length_comes_back(samples):
    assert build().extend(noise(1, samples)).shape == (1, samples)


def test_gradients_are_finite_in_silence():
    model = build().train()
    model.extend(torch.cat((noise(1, 400), torch.zeros(1, 400)), 1)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_other_weights_are_refused():
    with pytest.raises(CheckpointError, match="AP-BWE"):
        APBWE.from_authors({"conv.weight": torch.zeros(1)})


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"source_rate": 32000}, {"win_length": 128}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        replace(TINY, **wrong)
