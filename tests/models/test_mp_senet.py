"""MP-SENet as its users meet it: any length and level in, the same out; its attention swapped and observed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import harken
from harken.errors import InputError
from harken.models.enhance.mp_senet import MPSENet, MPSENetConfig
from harken.train.losses import EnhancementLoss

TINY = MPSENetConfig(channels=8, blocks=1, heads=2, n_fft=64, hop_length=16, win_length=64)
SMALL = replace(MPSENetConfig.small(), channels=8, blocks=1, heads=2, n_fft=64, hop_length=16, win_length=64)
FORMS = {
    "paper": TINY,
    "released": replace(TINY, axes=("freq", "time")),
    "conformer": replace(TINY, core="conformer"),
    "small": SMALL,
    "magnitude only": replace(SMALL, phase="noisy"),
}
every_form = pytest.mark.parametrize("config", FORMS.values(), ids=FORMS)


def spectra(model: MPSENet, samples: int = 320, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return model.spectrum(torch.randn(batch, samples, generator=torch.Generator().manual_seed(1)))


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_paper_s_configuration_has_its_number_of_parameters():
    assert count(MPSENet()) == pytest.approx(2.26e6, abs=0.01e6)
    assert count(MPSENet(MPSENetConfig(channels=16, blocks=2))) == pytest.approx(0.099e6, abs=0.001e6)


def test_the_shipped_preset_is_small():
    assert 1e5 < count(MPSENet(MPSENetConfig.small())) < 3e5


@every_form
@torch.inference_mode()
def test_spectra_keep_their_shape_and_the_mask_its_bound(config):
    model = MPSENet(config).eval()
    magnitude, phase = spectra(model)
    enhanced, enhanced_phase = model(magnitude, phase)
    assert enhanced.shape == enhanced_phase.shape == magnitude.shape
    assert ((enhanced >= 0) & (enhanced <= config.beta * magnitude)).all()
    assert enhanced_phase.abs().max() <= math.pi + 1e-6


@every_form
@torch.inference_mode()
def test_an_item_alone_equals_the_item_in_a_batch(config):
    model = MPSENet(config).eval()
    magnitude, phase = spectra(model, batch=3)
    together, alone = model(magnitude, phase)[0], model(magnitude[1:2], phase[1:2])[0]
    assert torch.allclose(together[1:2], alone, atol=1e-5)


@torch.inference_mode()
def test_legacy_lets_the_items_of_a_batch_see_each_other():
    model = MPSENet(replace(TINY, axes=("freq", "time"), legacy=True)).eval()
    magnitude, phase = spectra(model)
    together, alone = model(magnitude, phase)[0], model(magnitude[:1], phase[:1])[0]
    assert not torch.allclose(together[:1], alone, atol=1e-4)


@torch.inference_mode()
def test_legacy_on_one_item_equals_batch_first_with_the_axes_swapped():
    legacy = MPSENet(replace(TINY, axes=("freq", "time"), legacy=True)).eval()
    ours = MPSENet(replace(TINY, axes=("freq", "time"))).eval()
    ours.load_state_dict(legacy.state_dict())
    magnitude, phase = spectra(legacy, batch=1)
    for theirs, mine in zip(legacy(magnitude, phase), ours(magnitude, phase), strict=True):
        assert torch.allclose(theirs, mine, atol=1e-5)


@every_form
@pytest.mark.parametrize("samples", [1, 50, 63, 64, 65, 1000, 1601])
@torch.inference_mode()
def test_any_length_comes_back(config, samples, seed):
    enhanced = MPSENet(config).eval().enhance(torch.randn(1, samples, generator=seed))
    assert enhanced.shape == (1, samples)
    assert enhanced.isfinite().all()


@every_form
@torch.inference_mode()
def test_scaling_the_input_scales_the_output(config, seed):
    model = MPSENet(config).eval()
    waveform = torch.randn(1, 800, generator=seed)
    once = model.enhance(waveform)
    # powers of two, so that nothing is rounded: the absolute phase of a bin at half a turn may jump by a whole one
    for scale in (2.0**-13, 4.0, 32768.0):
        assert torch.allclose(model.enhance(scale * waveform) / scale, once, atol=1e-5)


@torch.inference_mode()
def test_the_small_preset_does_not_mind_how_a_scale_rounds(seed):
    model = MPSENet(SMALL).eval()
    waveform = torch.randn(1, 800, generator=seed)
    assert torch.allclose(model.enhance(1e-3 * waveform) / 1e-3, model.enhance(waveform), atol=1e-4)


@every_form
@torch.inference_mode()
def test_silence_stays_silence_beside_a_voice(config, seed):
    waveform = torch.cat((torch.zeros(1, 800), torch.randn(1, 800, generator=seed)))
    enhanced = MPSENet(config).eval().enhance(waveform)
    assert (enhanced[0] == 0).all()
    assert enhanced[1].abs().max() > 0


@torch.inference_mode()
def test_one_level_for_all_chunks_is_the_level_of_the_whole(seed):
    model = MPSENet(TINY).eval()
    waveform = torch.randn(1, 800, generator=seed)
    level = waveform.square().mean(-1).sqrt()
    assert torch.equal(model.enhance(waveform, level=level), model.enhance(waveform))
    assert not torch.allclose(model.enhance(waveform, level=3 * level), model.enhance(waveform), atol=1e-4)


@torch.inference_mode()
def test_an_untrained_rotation_keeps_the_noisy_phase_and_passes_most_of_the_signal():
    model = MPSENet(SMALL).eval()
    magnitude, phase = spectra(model)
    enhanced, enhanced_phase = model(magnitude, phase)
    turned = torch.remainder(enhanced_phase - phase + math.pi, 2 * math.pi) - math.pi
    assert turned.abs().median() < 0.6
    assert 0.5 < float((enhanced / magnitude).median()) < 1.5


@torch.inference_mode()
def test_magnitude_only_keeps_the_noisy_phase_as_it_is():
    model = MPSENet(FORMS["magnitude only"]).eval()
    magnitude, phase = spectra(model)
    assert torch.equal(model(magnitude, phase)[1], phase)


@every_form
@pytest.mark.parametrize("silent", [False, True], ids=["noise", "silence"])
def test_every_gradient_is_there_and_finite(config, silent, seed):
    model = MPSENet(config)
    noisy = torch.zeros(2, 640) if silent else torch.randn(2, 640, generator=seed)
    EnhancementLoss(model.spectrum)(0.5 * noisy, *model(*model.spectrum(noisy)))["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@every_form
def test_bfloat16_autocast_trains(config, seed):
    model = MPSENet(config)
    noisy = torch.randn(2, 640, generator=seed)
    with torch.autocast("cpu", torch.bfloat16):
        loss = EnhancementLoss(model.spectrum)(0.5 * noisy, *model(*model.spectrum(noisy)))["total"]
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", harken.list_attention(bidirectional=True, grid=False))
@pytest.mark.parametrize("core", ["transformer", "conformer"])
def test_every_bidirectional_mechanism_works_inside(name, core, seed):
    model = MPSENet(replace(SMALL, attention=name, core=core))
    loss = model.enhance(torch.randn(1, 480, generator=seed)).square().mean()
    loss.backward()
    stages = model.blocks[0].stages
    assert [stage.attention.name for stage in stages] == [name, name]
    for stage in stages:
        gradients = {name: p.grad for name, p in stage.attention.named_parameters() if p.grad is not None}
        learning = {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
        assert "in_proj.weight" in learning if hasattr(stage.attention, "in_proj") else learning


@torch.inference_mode()
def test_its_attention_maps_can_be_observed(seed):
    model = MPSENet(TINY).eval()
    waveform = torch.randn(1, 320, generator=seed)
    with harken.observe(model, "weights") as seen:
        observed = model.enhance(waveform)
    time, freq = seen["weights"]["blocks.0.stages.0.attention"], seen["weights"]["blocks.0.stages.1.attention"]
    assert time.shape == (17, 2, 21, 21)  # one map for every band, over the frames
    assert freq.shape == (21, 2, 17, 17)  # one for every frame, over the bands
    assert torch.allclose(time.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.equal(observed, model.enhance(waveform))


@pytest.mark.border  # the shape checker is no part of the graph
@pytest.mark.parametrize("config", [TINY, SMALL], ids=["paper", "small"])
def test_the_graph_has_no_breaks(config):
    model = MPSENet(replace(config, ffn="conv")).eval()
    magnitude, phase = spectra(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for plain, traced in zip(model(magnitude, phase), compiled(magnitude, phase), strict=True):
        assert torch.allclose(plain, traced, atol=1e-5)
    torch.compiler.reset()


@pytest.mark.border
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axes": ("time", "time")}, "'time' and 'freq' once each"),
        ({"norm": "batch"}, "norm must be one of instance, layer, got 'batch'"),
        ({"freq_stride": 3}, "freq_stride must be one of 2, 4, 8"),
        ({"channels": 0}, "must be positive"),
        ({"hop_length": 500}, "0 < hop_length"),
        ({"n_fft": 402, "freq_stride": 8}, "multiple of freq_stride"),
    ],
)
def test_an_impossible_configuration_says_why(options, message):
    with pytest.raises(InputError, match=message):
        MPSENetConfig(**options)


@pytest.mark.border
def test_an_unknown_mechanism_or_a_foreign_configuration_is_refused():
    with pytest.raises(InputError, match="no attention mechanism named 'nope'"):
        MPSENet(replace(TINY, attention="nope"))
    with pytest.raises(InputError, match=r"expected MPSENet\.Config, got dict"):
        MPSENet({"channels": 8})


@every_form
def test_inference_equals_the_forward_pass_that_trains(config, seed):
    model = MPSENet(config).eval()
    waveform = torch.randn(2, 1200, generator=seed)
    with torch.inference_mode():
        quick = model.enhance(waveform)
    assert torch.allclose(quick, model.enhance(waveform), atol=1e-4)
