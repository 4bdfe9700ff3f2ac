"""Classifiers by name: every preset fits images of common sizes, and what does not go together is told."""

from __future__ import annotations

import pytest
import torch

from harken.errors import InputError
from harken.models.see.classifiers import MODELS, PRESETS, classifier_config

FIRST = [(model, next(iter(presets))) for model, presets in PRESETS.items()]


@pytest.mark.parametrize(("model", "preset"), FIRST)
@pytest.mark.parametrize("size", [16, 30])
def test_a_small_classifier_takes_grey_images_of_any_size(model, preset, size):
    config = classifier_config(model, preset, classes=3, image_size=size, channels=1)
    net = MODELS[model](config).eval()
    with torch.inference_mode():
        assert net(torch.zeros(2, 1, size, size)).shape == (2, 3)


@pytest.mark.parametrize(("model", "preset"), [(m, p) for m, presets in PRESETS.items() for p in presets])
def test_the_papers_sizes_keep_their_patches(model, preset):
    config = classifier_config(model, preset, classes=3, image_size=224)
    usual = PRESETS[model][preset]()
    if model in ("vit", "sparsifiner") and preset != "small":
        assert config.patch_size == usual.patch_size == 16
    assert config.classes == 3


def test_attention_goes_where_it_can():
    assert classifier_config("vit", classes=2, image_size=32, attention=("mala", "softmax")).attention == (
        "mala",
        "softmax",
    )
    litv2 = classifier_config("litv2", classes=2, image_size=32, attention=("linear", "softmax"))
    assert litv2.attention == ("none", "none", "linear", "softmax")
    mavit = classifier_config("mavit", classes=2, image_size=32, attention=("softmax",) * 3)
    assert mavit.attention == ("softmax",) * 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet"}, "--model takes"),
        ({"model": "vit", "preset": "huge"}, "--preset of 'vit' takes small"),
        ({"model": "mavit", "patch_size": 2}, "no patches"),
        ({"model": "sparsifiner", "attention": ("mala",)}, "a choice of attention itself"),
        ({"model": "vit", "patch_size": 5}, "multiple of patch_size"),
    ],
)
def test_what_does_not_go_together_is_told(arguments, message):
    with pytest.raises(InputError, match=message):
        classifier_config(classes=2, image_size=32, **arguments)
