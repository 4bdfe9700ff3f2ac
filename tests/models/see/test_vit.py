"""The vision transformer: any attention, pruning two ways, masks, other sizes, foreign weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harken.errors import CheckpointError, InputError
from harken.models.see.vit import ViT, ViTConfig
from harken.observation import observe

SPARSE = "sparsifiner:keep=0.4,rank=4,coefficients=2"


def vit(**changes: object) -> ViT:
    torch.manual_seed(0)
    settings = {"image_size": 16, "patch_size": 4, "classes": 3, "dim": 16, "layers": 3, "heads": 2, **changes}
    model = ViT(ViTConfig(**settings)).eval()
    torch.nn.init.normal_(model.positions)
    return model


def images(size: int = 16) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": ("softmax", "linear", SPARSE)},
        {"attention": ("hilo", "softmax"), "pool": "mean"},
        {"attention": (SPARSE,), "token_keep": (1.0, 0.7, 0.5)},
    ],
)
def test_gradients_reach_everything(changes):
    model = vit(**changes).train()
    with observe(model, "loss") as seen:
        logits = model(images())
    assert logits.shape == (2, 3)
    (logits.square().sum() + seen.total()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("pruned", ["removed", "zeroed"])
@pytest.mark.parametrize("attention", [(SPARSE,), ("softmax",), ("linear", SPARSE)])
def test_a_dropped_token_is_a_masked_token(pruned, attention):
    model = vit(attention=attention, token_keep=(1.0, 0.7, 0.5), pruned=pruned)
    dropped, masked = model.encode(images()), model.encode(images(), drop=False)
    assert dropped.alive.sum(1).tolist() == [8, 8]
    for one, other in zip(dropped, masked, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "changes", [{"attention": (SPARSE,)}, {"attention": ("hilo",), "pool": "mean"}, {"token_keep": (0.5, 0.5, 0.5)}]
)
def test_a_masked_patch_changes_nothing(changes):
    model, image = vit(**changes), images()
    mask = torch.ones(2, 4, 4, dtype=torch.bool)
    mask[1, :, 3] = False
    noisy = image.clone()
    noisy[1, :, :, 12:] = 30.0
    torch.testing.assert_close(model(noisy, mask=mask), model(image, mask=mask), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model(image, mask=mask)[:1], model(image)[:1], atol=1e-5, rtol=1e-4)


def test_resized_to_its_own_size_it_is_the_same():
    model = vit(attention=(SPARSE,))
    torch.testing.assert_close(model.resized(16)(images()), model(images()))
    assert model.resized(24)(images(24)).isfinite().all()


def test_a_sparse_model_that_keeps_everything_is_its_teacher():
    dense = vit()
    sparse = ViT.from_dense(dense, replace(dense.config, attention=("sparsifiner:keep=1.0",))).eval()
    torch.testing.assert_close(sparse(images()), dense(images()), atol=1e-5, rtol=1e-4)
    with pytest.raises(CheckpointError, match="does not fit"):
        ViT.from_dense(dense, replace(dense.config, dim=32))


def test_sizes_are_read_off_released_weights():
    case = Path(__file__).parents[2] / "parity/sparsifiner"
    state = {name[4:]: t for name, t in load_file(case / "weights.safetensors").items() if name.startswith("net.")}
    config = ViT.from_authors({"model": state}).config
    assert (config.image_size, config.patch_size, config.dim, config.layers, config.heads) == (32, 8, 24, 3, 3)
    assert config.attention == ("sparsifiner:rank=4,reduced_dim=4",)


def test_presets_have_the_published_sizes():
    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in ViT(ViTConfig.deit(size)).parameters()) / 1e6 for size in ("tiny", "small", "base")
        ]
    assert [round(size, 1) for size in sizes] == [5.7, 22.1, 86.6]
    assert ViTConfig.sparsifiner("small", token_keep=0.7).token_keep[2:4] == (1.0, 0.7)


@pytest.mark.border
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attention": ("hilo",)}, "pool='mean'"),
        ({"token_keep": (0.5, 0.7, 0.5)}, "none larger"),
        ({"token_keep": (0.5,)}, "3 shares"),
        ({"token_keep": (0.5, 0.5, 0.5), "pool": "mean"}, "class token"),
        ({"image_size": 15}, "multiple of patch_size"),
        ({"attention": ()}, "1 to 3 mechanisms"),
    ],
)
def test_what_does_not_go_together(settings, message):
    with pytest.raises(InputError, match=message):
        vit(**settings)


@pytest.mark.border
def test_other_images_are_one_line():
    with pytest.raises(InputError, match="resized"):
        vit()(images(20))
    with pytest.raises(InputError, match="mask of patches"):
        vit()(images(), mask=torch.ones(2, 16, dtype=torch.bool))
