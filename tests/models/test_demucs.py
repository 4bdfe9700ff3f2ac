"""Demucs and Conv-TasNet: lengths, pieces, shifts, the authors' names, and what quantised weights come back as."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from harken import models
from harken.errors import CheckpointError, InputError
from harken.layers.diffq import DiffQ, DiffQConfig
from harken.models.separate._products import down, up
from harken.models.separate._separator import center_trim
from harken.models.separate.conv_tasnet import ConvTasNet, ConvTasNetConfig
from harken.models.separate.demucs import Demucs, DemucsConfig

DEMUCS = DemucsConfig(sources=("a", "b"), sample_rate=8000, channels=4, depth=2, lstm_layers=1, segment_length=800)
TASNET = ConvTasNetConfig(
    sources=("a", "b"), sample_rate=8000, filters=8, bottleneck=4, hidden=6, blocks=2, repeats=2, segment_length=800
)


def build(config=DEMUCS, **changes):
    torch.manual_seed(0)
    made = replace(config, **changes)
    return (Demucs(made) if isinstance(made, DemucsConfig) else ConvTasNet(made)).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("config", "millions"),
    [(DemucsConfig(), 265.7), (DemucsConfig(channels=48), 149.5), (ConvTasNetConfig(), 10.98)],
)
def test_the_papers_sizes(config, millions):
    with torch.device("meta"):
        model = Demucs(config) if isinstance(config, DemucsConfig) else ConvTasNet(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


def test_valid_lengths_grow_and_their_outputs_cover_the_length():
    model = build()
    lengths = [model.valid_length(n) for n in range(1, 400)]
    assert lengths == sorted(lengths)
    for n in (1, 7, 100, 333):
        made = model(noise(1, 2, model.valid_length(n)))
        assert n <= made.shape[-1] < model.valid_length(n)
    with torch.device("meta"):
        assert Demucs(DemucsConfig()).valid_length(44100) == 49834


@pytest.mark.parametrize("changes", [{"stride": 2, "kernel_size": 8}, {"kernel_size": 5}, {"rewrite": False}])
@pytest.mark.parametrize("more", [{"glu": False}, {"lstm_layers": 0}, {"resample": False}, {"normalize": True}])
def test_every_ablation_of_the_paper_covers_its_length(changes, more):
    model = build(**changes, **more)
    assert model.separate(noise(1, 2, 211)).shape == (1, 2, 2, 211)


@pytest.mark.parametrize("kernel", [8, 12, 7])
def test_products_are_convolutions(kernel):
    x = noise(2, 3, 83)
    conv, back = nn.Conv1d(3, 5, kernel, 4), nn.ConvTranspose1d(3, 5, kernel, 4)
    torch.testing.assert_close(down(x.mT, conv).mT, conv(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(up(x.mT, back).mT, back(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [DEMUCS, TASNET])
def test_no_window_needs_more_than_the_reach(config):
    model = build(config)
    for length in (*range(1, 70), 777):
        assert (model.valid_length(length) - length + 1) // 2 <= model.reach


@pytest.mark.parametrize("config", [DEMUCS, TASNET])
@pytest.mark.parametrize("samples", [1, 19, 500])
def test_any_length_comes_back(config, samples):
    assert build(config).separate(noise(2, 2, samples)).shape == (2, 2, 2, samples)


def test_a_piece_with_its_surroundings_is_what_the_whole_has_there():
    model = build(depth=1, lstm_layers=0)  # no recurrence: a sample depends on its surroundings alone
    x = noise(1, 2, 1600)
    whole = model.separate(x, standardise=False)
    before = [(model.valid_length(length) - length) // 2 for length in (1600, 400)]
    first = 800 + (before[1] - before[0]) % 2  # on the grid of the stride, which is two samples at the doubled rate
    held = x[..., first - model.context() : first + 400 + model.context()]
    piece = model.separate_piece(held, 400)[..., 60:-60]  # resampling holds the ends of what it is given
    torch.testing.assert_close(piece, whole[..., first + 60 : first + 340], atol=1e-4, rtol=1e-4)


def test_shifts_are_aligned_before_they_are_averaged():
    class Copies(Demucs):
        def forward(self, mix):
            return mix[:, None].expand(-1, 2, -1, -1)[..., 3:-4]

        def valid_length(self, length):
            return length + 7

    torch.manual_seed(0)
    x = noise(1, 2, 900)
    torch.testing.assert_close(Copies(DEMUCS).separate(x, shifts=3)[:, 0], x, atol=1e-5, rtol=1e-5)


def test_shifts_follow_the_generator():
    model, x = build(), noise(1, 2, 600)
    made = [model.separate(x, shifts=2, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])


def test_level_does_not_matter_and_comes_back():
    model, x = build(), noise(1, 2, 600)
    torch.testing.assert_close(model.separate(100 * x), 100 * model.separate(x), atol=1e-3, rtol=1e-4)


def test_conv_tasnet_moves_with_its_input():
    model, x = build(TASNET, norm="channel"), noise(1, 2, 600)
    hop = 10
    later = torch.cat((noise(1, 2, 3 * hop, seed=1), x), -1)
    torch.testing.assert_close(model(later)[..., 200:500], model(x)[..., 200 - 3 * hop : 500 - 3 * hop])


def test_a_causal_conv_tasnet_does_not_look_ahead():
    model, x = build(TASNET, norm="channel", causal=True), noise(1, 2, 600)
    changed = torch.cat((x[..., :400], noise(1, 2, 200, seed=1)), -1)
    torch.testing.assert_close(model(changed)[..., :370], model(x)[..., :370])


def test_initial_weights_are_rescaled():
    torch.manual_seed(0)
    plain = build(rescale=0.0).encoder[0][0].weight
    scaled = build(rescale=0.1).encoder[0][0].weight
    torch.testing.assert_close(scaled, plain / (plain.std() / 0.1).sqrt())


def test_gradients_are_finite_in_silence():
    for config in (DEMUCS, TASNET):
        model = build(config).train()
        model(torch.zeros(1, 2, model.valid_length(300))).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_sizes_are_read_from_the_authors_weights():
    demucs = build(channels=8, context=3)
    again = Demucs.from_authors({"state": demucs.state_dict(), "args": [], "kwargs": {}})
    assert (again.config.depth, again.config.channels, again.sources) == (2, 8, ("source0", "source1"))
    x = noise(1, 2, demucs.valid_length(200))
    assert torch.equal(again.eval()(x), demucs(x))


def test_a_compressed_checkpoint_of_diffqs_package_says_what_to_do():
    with pytest.raises(CheckpointError, match="compressed by DiffQ"):
        Demucs.from_authors({"compressed": b""})


@pytest.mark.parametrize("kind", [Demucs, ConvTasNet])
def test_other_weights_are_refused(kind):
    with pytest.raises(CheckpointError, match="these weights are not those of"):
        kind.from_authors({"conv.weight": torch.zeros(1)})


def test_quantised_weights_are_saved_packed_and_load_as_any_others(tmp_path):
    model = build(channels=16)
    model.quantiser = DiffQ(model, DiffQConfig(min_size=1e-4))
    model.save_pretrained(tmp_path)
    again = models.load("demucs", tmp_path)
    x = noise(1, 2, 400)
    with model.quantiser.quantised(model):
        wanted = model.separate(x)
    assert torch.equal(again.separate(x), wanted)
    stored = (tmp_path / "model.safetensors").stat().st_size
    assert stored < 0.4 * 4 * sum(p.numel() for p in again.parameters())


@pytest.mark.border
def test_other_channels_are_refused():
    with pytest.raises(InputError, match="repeat or average"):
        build().separate(noise(1, 1, 100))


@pytest.mark.parametrize(
    "wrong",
    [{"sources": ()}, {"sources": ("../a", "b")}, {"context": 2}, {"stride": 9}, {"depth": 11}, {"audio_channels": 0}],
)
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        replace(DEMUCS, **wrong)


def test_center_trim_drops_the_odd_one_on_the_right():
    assert center_trim(torch.arange(6.0), 3).tolist() == [1, 2, 3]
