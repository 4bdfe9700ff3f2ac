"""harken: attention for signals. Swap the attention, load published weights, look inside, check the claim."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from harken.attention import create_attention as create_attention
    from harken.attention import list_attention as list_attention
    from harken.data.audio import Audio as Audio
    from harken.models import list_models as list_models
    from harken.models import load as load
    from harken.observation import observe as observe
    from harken.tasks import task as task

# the public names, and where each lives: nothing is imported before it is asked for
_LAZY = {
    "Audio": "harken.data.audio",
    "create_attention": "harken.attention",
    "list_attention": "harken.attention",
    "list_models": "harken.models",
    "load": "harken.models",
    "observe": "harken.observation",
    "task": "harken.tasks",
}
_ROOMS = {
    *(
        "attention",
        "bridge",
        "data",
        "errors",
        "hardware",
        "layers",
        "lens",
        "models",
        "observation",
        "papers",
        "scale",
    ),
    *("score", "signal", "tasks", "train"),
}

__all__ = ["Audio", "__version__", "create_attention", "list_attention", "list_models", "load", "observe", "task"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return import_module(f"harken.{name}")
    raise AttributeError(f"module 'harken' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS})
