"""LITv2: the merging of tokens, any image size, any attention, published sizes, foreign weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from harken.errors import CheckpointError, InputError
from harken.models.see.litv2 import LITv2, LITv2Config, TokenMerging, _read_off


def small(**changes: object) -> LITv2:
    torch.manual_seed(0)
    settings = {"patch_size": 2, "classes": 3, "dim": 8, "depths": (1, 1, 1, 1), "heads": (1, 2, 2, 2), **changes}
    return LITv2(LITv2Config(**settings)).eval()


def image(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_without_offsets_merging_is_a_strided_convolution():
    merging, x = TokenMerging(4), torch.randn(2, 4, 5, 7)
    torch.testing.assert_close(merging._deformed(x, torch.zeros(2, 8, 2, 3)), merging.conv(x), atol=1e-5, rtol=1e-5)


def test_offsets_point_between_tokens_and_to_zeros_outside():
    merging = TokenMerging(1).double()
    x = torch.randn(1, 1, 4, 6, dtype=torch.float64)
    offset = 2 * torch.randn(1, 8, 2, 3, dtype=torch.float64)
    expected = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    framed = F.pad(x, (20, 20, 20, 20))[0, 0]
    for i in range(2):
        for j in range(3):
            for tap in range(4):
                y = 2 * i + tap // 2 + float(offset[0, 2 * tap, i, j]) + 20
                z = 2 * j + tap % 2 + float(offset[0, 2 * tap + 1, i, j]) + 20
                top, left = int(y), int(z)
                corners = framed[top : top + 2, left : left + 2]
                down, right = y - top, z - left
                value = torch.tensor([1 - down, down]).double() @ corners @ torch.tensor([1 - right, right]).double()
                expected[0, :, i, j] += merging.conv.weight[:, 0, tap // 2, tap % 2].detach() * value
    ours = merging._deformed(x, offset) - merging.conv.bias[:, None, None]
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("size", [(16, 16), (32, 20), (37, 50)])
def test_images_of_any_size(size):
    model = small()
    assert model(image(*size)).shape == (2, 3)
    assert model.maps(image(*size))[-1].shape[-1] == 64


@pytest.mark.parametrize("name", ["softmax", "hilo:alpha=0.0", "linear"])
def test_any_attention_and_gradients_reach_everything(name):
    model = small(attention=("none", name, name, name)).train()
    model(image(32, 32)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_plain_form_is_the_same_until_offsets_are_trained():
    model = small()
    torch.testing.assert_close(model.plain()(image(16, 16)), model(image(16, 16)), atol=1e-5, rtol=1e-4)
    torch.nn.init.ones_(model.stages[0].merge.offset.bias)
    with pytest.raises(InputError, match="not zero"):
        model.plain()


def test_presets_have_the_published_sizes():
    with torch.device("meta"):
        models = [LITv2(config) for config in (LITv2Config(), LITv2Config.medium(), LITv2Config.base())]
    assert [round(sum(p.numel() for p in model.parameters()) / 1e6) for model in models] == [28, 49, 87]


def test_sizes_are_read_off_released_weights():
    case = Path(__file__).parents[2] / "parity/hilo"
    state = {name[4:]: t for name, t in load_file(case / "weights.safetensors").items() if name.startswith("net.")}
    config = _read_off(state)
    assert (config.patch_size, config.dim, config.depths, config.classes, config.expansion) == (
        4,
        8,
        (1, 1, 2, 1),
        7,
        2,
    )
    assert config.attention == ("none", "none", "hilo:window_size=2,alpha=0.5", "hilo:window_size=1")
    with pytest.raises(CheckpointError):  # its heads are not of 32 channels, as those of all published sizes are
        LITv2.from_authors({"model": state})


@pytest.mark.border
def test_other_images_are_one_line():
    for wrong in (image(8, 32), image(32, 32)[:, :1], image(32, 32)[0]):
        with pytest.raises(InputError, match="of at least 16 x 16 pixels"):
            small()(wrong)
