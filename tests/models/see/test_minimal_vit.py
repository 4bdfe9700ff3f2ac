"""Minimal ViT: the parameters that are left, foreign weights, and what parts do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.errors import CheckpointError, InputError
from harken.models.see.minimal_vit import MinimalViT, MinimalViTConfig

CASE = Path(__file__).parents[2] / "parity" / "minimal-transformer"


def theirs(variant: str) -> dict[str, torch.Tensor]:
    state = load_file(CASE / "weights.safetensors")
    return {name.removeprefix(f"{variant}."): w for name, w in state.items() if name.startswith(f"{variant}.")}


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # the independent implementation's, less its 6 norms that are not used without MLP
        (MinimalViTConfig(), 156_298),
        (MinimalViTConfig(query_key="collapsed"), 131_338),
        (MinimalViTConfig(query_key="collapsed", value="none"), 81_418),
        (MinimalViTConfig.without_mlp(), 106_378 - 768),
        (MinimalViTConfig.minimum(), 31_498 - 768),
        (MinimalViTConfig(heads=4, expansion=0.0, query_key="cholesky"), 59_722 - 768),
    ],
)
def test_parameters_are_those_of_the_replication(config, parameters):
    assert sum(p.numel() for p in MinimalViT(config).parameters()) == parameters


@pytest.mark.parametrize("variant", ["unchanged.h1.mlp", "Wqk.h1.nomlp", "Wqk+noWvWo.h1.mlp", "symmetry.h4.nomlp"])
def test_sizes_are_read_off_foreign_weights(variant):
    model = MinimalViT.from_authors(theirs(variant)).eval()
    assert bool(model.config.expansion) == variant.endswith(".mlp")
    io = load_file(CASE / "io.safetensors")
    with torch.inference_mode():
        torch.testing.assert_close(model(io["x"]), io[f"{variant}.logits"], atol=1e-4, rtol=1e-4)
    counts = json.loads((CASE / "case.json").read_text())["config"]["param_counts"]
    unused = 0 if model.config.expansion else 2 * 2 * 8
    assert sum(p.numel() for p in model.parameters()) == counts[variant] - unused


def test_gradients_reach_everything_but_what_is_left_out():
    torch.manual_seed(0)
    for config in (MinimalViTConfig.small(), replace(MinimalViTConfig.minimum(), image_size=8, patch_size=2, dim=16)):
        model = MinimalViT(config).train()
        model(torch.randn(2, 1, 8, 8)).square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_without_bias_one_collapsed_matrix_equals_two():
    torch.manual_seed(0)
    plain = {"image_size": 8, "patch_size": 2, "dim": 16, "layers": 2, "expansion": 0.0, "bias": False}
    two = MinimalViT(MinimalViTConfig(**plain)).double().eval()
    one = MinimalViT(MinimalViTConfig(**plain, query_key="collapsed")).double().eval()
    state = {name: tensor for name, tensor in two.state_dict().items() if ".projection." not in name}
    for layer in range(2):
        q, k, v = two.encoders[layer].attention.projection.weight.chunk(3)
        state[f"encoders.{layer}.attention.projection.weight"] = torch.cat((k.T @ q, v))
    one.load_state_dict(state)
    image = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(one(image), two(image), atol=1e-12, rtol=1e-12)


def test_an_mlp_cannot_come_from_weights_without_one():
    config = MinimalViT.from_authors(theirs("unchanged.h1.nomlp")).config
    with pytest.raises(CheckpointError):
        MinimalViT.from_authors(theirs("unchanged.h1.nomlp"), replace(config, expansion=1.0))
    with pytest.raises(CheckpointError, match="no layer with query_key=symmetric"):
        MinimalViT.from_authors(theirs("unchanged.h1.nomlp"), replace(config, query_key="symmetric"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, "multiple of patch_size"),
        ({"dropout": 1.0}, "dropout in"),
        ({"layers": 0}, "positive"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        MinimalViTConfig(**changes)


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"expected images \(batch, 1, 8, 8\)"):
        MinimalViT(MinimalViTConfig.small())(torch.zeros(1, 3, 8, 8))
