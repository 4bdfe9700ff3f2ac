"""MAViT: sizes, gradients, other image sizes, what the authors' weights become."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.errors import CheckpointError, InputError
from harken.models.see.mavit import MAViT, MAViTConfig

CASE = Path(__file__).parents[2] / "parity" / "mala"


def theirs() -> dict[str, torch.Tensor]:
    state = load_file(CASE / "weights.safetensors")
    return {name.removeprefix("net."): tensor for name, tensor in state.items() if name.startswith("net.")}


@pytest.mark.parametrize(
    ("config", "millions"), [(MAViTConfig.paper_s(), 27), (MAViTConfig.paper_b(), 50), (MAViTConfig.paper_l(), 98)]
)
def test_the_published_sizes_have_the_published_parameters(config, millions):
    with torch.device("meta"):
        model = MAViT(config)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_gradients_reach_everything():
    torch.manual_seed(0)
    model = MAViT(MAViTConfig.test()).train()
    model(torch.randn(2, 3, 32, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_stages_halve_the_map_of_any_image():
    model = MAViT(MAViTConfig.test()).eval()
    shapes = [tuple(part.shape[1:]) for part in model.maps(torch.randn(1, 3, 64, 96))]
    assert shapes == [(32, 8, 12), (64, 4, 6), (64, 2, 3), (64, 2, 3)]
    assert [tuple(part.shape[2:]) for part in model.maps(torch.randn(1, 3, 37, 50))][-1] == (2, 2)


def test_layer_scale_and_drop_path_switch_branches_off():
    torch.manual_seed(0)
    config = replace(MAViTConfig.test(), layer_scale=(0.0,) * 4)
    block = MAViT(config).stages[0].blocks[0].eval()
    x = torch.randn(1, 16, 4, 4)
    torch.testing.assert_close(block(x), x + block.positions(x))


@pytest.mark.parametrize("linear", [0, 1])
def test_stages_mix_as_configured(linear):
    kinds = ("softmax", "mala")[linear]
    model = MAViT(replace(MAViTConfig.test(), attention=(kinds,) * 4))
    assert {block.attention.name for stage in model.stages for block in stage.blocks} == {
        ("mala-softmax", "mala")[linear]
    }


def test_sizes_are_read_off_the_authors_weights():
    net = json.loads((CASE / "case.json").read_text())["config"]["net"]
    model = MAViT.from_authors({"model": theirs()}).eval()
    assert model.config.dims == tuple(net["embed_dims"])
    assert model.config.depths == tuple(net["depths"])
    assert model.config.heads == tuple(net["num_heads"])
    assert model.config.attention == ("mala", "mala", "softmax", "softmax")
    io = load_file(CASE / "io.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(model(io["image"]), io["logits"], atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("missing", ["head.weight", "layers.1.blocks.0.attn.qkvo.bias", "layers.0.RoPE.angle"])
def test_foreign_weights_are_refused(missing):
    state = theirs()
    del state[missing]
    with pytest.raises(CheckpointError):
        MAViT.from_authors(state)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depths": (1, 1)}, "same 1 to 8 stages"),
        ({"drop_path": 1.0}, "below 1"),
        ({"dims": (15, 32, 64, 64)}, "even first width"),
        ({"heads": (0, 1, 1, 1)}, "must be positive"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(MAViTConfig.test(), **changes)


@pytest.mark.parametrize("shape", [(2, 3, 16, 64), (2, 1, 64, 64)])
def test_an_image_that_does_not_fit_is_refused(shape):
    with pytest.raises(InputError, match="at least 32 x 32"):
        MAViT(MAViTConfig.test())(torch.zeros(shape))
