"""The image classifiers by the name and preset that a command takes, fitted to images of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harken.errors import InputError
from harken.models._base import Model
from harken.models.see.litv2 import LITv2, LITv2Config
from harken.models.see.mavit import MAViT, MAViTConfig
from harken.models.see.minimal_vit import MinimalViT, MinimalViTConfig
from harken.models.see.vit import ViT, ViTConfig

_SPARSE_ON_A_LAPTOP = "sparsifiner:keep=0.25"

# model -> preset -> its configuration; the first is the default
PRESETS: dict[str, dict[str, Callable[[], Any]]] = {
    "vit": {
        "small": ViTConfig.small,
        "deit-tiny": lambda: ViTConfig.deit("tiny"),
        "deit-small": lambda: ViTConfig.deit("small"),
        "deit-base": lambda: ViTConfig.deit("base"),
    },
    "litv2": {"small": LITv2Config.small, "s": LITv2Config, "m": LITv2Config.medium, "b": LITv2Config.base},
    "mavit": {
        "small": MAViTConfig.small,
        "test": MAViTConfig.test,
        "t": MAViTConfig,
        "s": MAViTConfig.paper_s,
        "b": MAViTConfig.paper_b,
        "l": MAViTConfig.paper_l,
    },
    "sparsifiner": {
        "small": lambda: replace(ViTConfig.small(), attention=(_SPARSE_ON_A_LAPTOP,)),
        "deit-tiny": lambda: ViTConfig.sparsifiner("tiny"),
        "deit-small": lambda: ViTConfig.sparsifiner("small"),
        "deit-base": lambda: ViTConfig.sparsifiner("base"),
    },
    "minimal": {
        "symmetric": MinimalViTConfig.symmetric,
        "full": MinimalViTConfig,
        "no-mlp": MinimalViTConfig.without_mlp,
        "minimum": MinimalViTConfig.minimum,
    },
}
MODELS: dict[str, type[Model]] = {
    "vit": ViT,
    "litv2": LITv2,
    "mavit": MAViT,
    "sparsifiner": ViT,
    "minimal": MinimalViT,
}


def classifier_config(
    model: str,
    preset: str | None = None,
    *,
    classes: int,
    image_size: int,
    channels: int = 3,
    attention: tuple[str, ...] = (),
    patch_size: int | None = None,
) -> Any:
    """The configuration of a classifier, fitted to the images.

    Args:
        model: one of :data:`PRESETS`.
        preset: one of the model's; its first when None.
        classes, image_size, channels: of the data.
        attention: mechanisms in place of the preset's: they take turns through the layers of ``"vit"``, and are those
            of the last stages of ``"litv2"`` and ``"mavit"``.
        patch_size: pixels; when None the preset's where it gives 4 to 32 patches a side (more where stages merge them),
            else what gives about 8.

    Raises:
        InputError: no such model or preset, or options that do not go together.

    >>> classifier_config("vit", classes=10, image_size=8, channels=1, attention=("mala",)).attention
    ('mala',)
    """
    if model not in PRESETS:
        raise InputError(f"--model takes {', '.join(PRESETS)}, got '{model}'")
    presets = PRESETS[model]
    preset = next(iter(presets)) if preset is None else preset
    if preset not in presets:
        raise InputError(f"--preset of '{model}' takes {', '.join(presets)}, got '{preset}'")
    changes: dict[str, Any] = {"classes": classes, "channels": channels}
    if model != "mavit":  # it starts with convolutions
        stages = len(presets[preset]().depths) if model == "litv2" else 1
        changes["patch_size"] = patch_size or _patch(presets[preset]().patch_size, image_size, stages)
    elif patch_size is not None:
        raise InputError("'mavit' has no patches: leave --patch-size out")
    if model in ("vit", "sparsifiner", "minimal"):
        changes["image_size"] = image_size
    config = replace(presets[preset](), **changes)
    if not attention:
        return config
    if model in ("minimal", "sparsifiner"):
        raise InputError(f"'{model}' is a choice of attention itself: leave --attention out, or take --model vit")
    if model != "vit":
        before = config.attention[: max(0, len(config.attention) - len(attention))]
        attention = (*before, *attention)
    return replace(config, attention=attention)


def _patch(usual: int, image_size: int, stages: int) -> int:
    """A size of patches that leaves enough of them to every stage, and not too many to the last."""
    merged = 2 ** (stages - 1)
    if image_size % usual == 0 and max(4, 2 * merged) <= image_size // usual <= 32 * merged:
        return usual
    wanted = image_size // max(8, 2 * merged) if stages > 1 or image_size > 8 else 2
    return next(size for size in range(max(1, wanted), 0, -1) if image_size % size == 0)
