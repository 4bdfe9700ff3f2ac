"""MambAttention: its cores, its one attention for two axes, and what every enhancer owes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harken.errors import CheckpointError, InputError
from harken.models import load
from harken.models.enhance.mambattention import MambAttention, MambAttentionConfig

SMALL = MambAttentionConfig(channels=8, blocks=1, heads=2, n_fft=48, hop_length=16, win_length=48, expand=2, states=4)


def build(**changes):
    torch.manual_seed(0)
    return MambAttention(replace(SMALL, **changes)).eval()


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("core", ["mamba", "xlstm", "lstm", "conformer"])
@pytest.mark.parametrize("attention", ["softmax", None])
def test_every_core_enhances_with_attention_and_without(core, attention):
    y = build(core=core, attention=attention).enhance(noise(2, 480))
    assert y.shape == (2, 480)
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("core", "attention", "count"),
    [("mamba", "softmax", 2.33), ("mamba", None, 2.25), ("lstm", None, 2.34), ("xlstm", None, 2.20)],
)
def test_the_papers_sizes(core, attention, count):
    with torch.device("meta"):
        model = MambAttention(MambAttentionConfig(core=core, attention=attention))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(count, rel=0.03)


def test_the_attention_along_time_is_that_along_frequency():
    block = build().blocks[0]
    x = noise(2, 5, 7, 8)
    (attention,) = block.attentions
    along_time = attention(x.transpose(1, 2).flatten(0, 1)).view(2, 7, 5, 8).transpose(1, 2)
    turned = x.transpose(1, 2)
    along_frequency = attention(turned.flatten(0, 1)).view(2, 7, 5, 8).transpose(1, 2)
    torch.testing.assert_close(along_time, along_frequency)


def test_unshared_attention_has_one_each():
    shared, unshared = build(), build(shared=False)
    extra = sum(p.numel() for p in shared.blocks[0].attentions.parameters())
    assert sum(p.numel() for p in unshared.parameters()) - sum(p.numel() for p in shared.parameters()) == extra


def test_a_row_of_a_batch_is_the_row_alone():
    model, x = build(), noise(3, 480)
    torch.testing.assert_close(model.enhance(x)[1:2], model.enhance(x[1:2]), atol=1e-5, rtol=1e-4)


def test_louder_in_is_louder_out():
    model, x = build().double(), noise(1, 480).double()
    torch.testing.assert_close(model.enhance(10 * x), 10 * model.enhance(x))


def test_silence_stays_silence():
    assert torch.equal(build().enhance(torch.zeros(1, 480)), torch.zeros(1, 480))


def test_gradients_are_finite_in_silence():
    model = build().train()
    x = torch.cat((noise(1, 240), torch.zeros(1, 240)), 1)
    model.enhance(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("attention", ["linear", "mala", "flow"])
def test_other_attentions_fit_in(attention):
    assert build(attention=attention).enhance(noise(1, 480)).isfinite().all()


def test_a_codec_is_taken_over_and_the_core_is_not():
    one, other = build(), MambAttention(replace(SMALL, core="lstm"))
    core = one.blocks[0].state_dict()["attentions.0.norm.weight"].clone() + 0
    assert one.take_codec(other) is one
    for part in ("encoder", "mask_decoder", "phase_decoder"):
        theirs = getattr(other, part).state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in getattr(one, part).state_dict().items())
    assert torch.equal(one.blocks[0].state_dict()["attentions.0.norm.weight"], core)
    with pytest.raises(CheckpointError, match="other sizes"):
        one.take_codec(MambAttention(replace(SMALL, channels=16)))


def test_it_is_saved_and_read_back(tmp_path):
    model, x = build(), noise(1, 480)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(MambAttention.from_pretrained(tmp_path).eval().enhance(x), model.enhance(x))


def test_it_is_loaded_by_name(tmp_path):
    build().save_pretrained(tmp_path)
    assert isinstance(load("mambattention", tmp_path), MambAttention)


def test_other_weights_are_refused():
    with pytest.raises(CheckpointError, match="MambAttention"):
        MambAttention.from_authors({"conv.weight": torch.zeros(1)})


@pytest.mark.border
@pytest.mark.parametrize("wrong", [{"core": "gru"}, {"freq_stride": 4}, {"n_fft": 50}, {"codec": "other"}])
def test_impossible_sizes_are_refused(wrong):
    with pytest.raises(InputError):
        replace(SMALL, **wrong)
