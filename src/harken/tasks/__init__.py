"""The verbs: what a user asks for, in their units; one implementation behind Python, command line and web page."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from harken.errors import InputError

__all__ = ["list_tasks", "task"]

# verb -> where its function lives, so that naming the verbs imports none of them
_TASKS = {
    "denoise_eeg": "harken.tasks.denoise_eeg:denoise_eeg",
    "enhance": "harken.tasks.enhance:enhance",
    "extend": "harken.tasks.extend:extend",
    "extract": "harken.tasks.extract:extract",
    "score": "harken.tasks.score:score",
    "separate": "harken.tasks.separate:separate",
    "score_separation": "harken.tasks.score_separation:score_separation",
    "upsample_hrtf": "harken.tasks.upsample_hrtf:upsample_hrtf",
}


def list_tasks() -> list[str]:
    """The verbs.

    >>> "enhance" in list_tasks()
    True
    """
    return sorted(_TASKS)


def task(name: str) -> Callable[..., Any]:
    """The function behind a verb: ``task("enhance")("noisy.wav")``.

    Raises:
        InputError: no task has that name.

    >>> task("enhance").__name__
    'enhance'
    """
    try:
        module, _, function = _TASKS[name].partition(":")
    except KeyError:
        raise InputError(f"no task named '{name}': one of {', '.join(list_tasks())}") from None
    return getattr(import_module(module), function)
