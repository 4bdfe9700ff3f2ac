"""Readers of brain signals, as scikit-learn estimators on arrays ``(trials, channels, samples)`` and MNE epochs."""

from __future__ import annotations

import json
import os
from importlib import import_module
from pathlib import Path
from typing import Any

from harken.errors import CheckpointError

# estimator -> the file it lives in, so that naming them imports none of them
_ESTIMATORS: dict[str, str] = {
    "AttentionDecoder": "attention_decoder",
    "ArtefactRemover": "artefact_remover",
    "BrainSpeechDecoder": "speech_decoder",
    "CCAClassifier": "ssvep",
    "ChirpLocator": "chirp_locator",
    "DBConformerClassifier": "dbconformer_classifier",
    "EuclideanAlignment": "alignment",
    "EnvelopeDecoder": "envelope_decoder",
    "EnvelopeFollowing": "envelope_following",
    "FBCCAClassifier": "ssvep",
    "GeometricClassifier": "geometric_classifier",
    "LiPCoTClassifier": "lipcot_classifier",
    "LiPCoTTokenizer": "lipcot_tokenizer",
    "SSVEPClassifier": "ssvep_classifier",
    "SeizureDetector": "seizure",
    "TRCAClassifier": "trca",
}

__all__ = ["list_estimators", "load_estimator", *_ESTIMATORS]
_LARGEST = 1 << 22


def list_estimators() -> list[str]:
    """The names of the estimators, each importable from here."""
    return list(_ESTIMATORS)


def load_estimator(folder: str | os.PathLike[str]) -> Any:
    """The fitted estimator that ``estimator.save(folder)`` wrote, whichever it is.

    Raises:
        CheckpointError: the folder holds none, or a damaged one.
    """
    path = Path(folder) / "estimator.json"
    if not path.is_file():
        raise CheckpointError(f"no estimator.json in '{folder}': expected a folder that save() of an estimator wrote")
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["estimator"] if path.stat().st_size < _LARGEST else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        name = None
    if name not in _ESTIMATORS:
        raise CheckpointError(f"'{path}' names no estimator of harken: it is damaged, or of a later version")
    return getattr(import_module(f"{__name__}.{_ESTIMATORS[name]}"), name).load(folder)


def __getattr__(name: str) -> Any:
    if name in _ESTIMATORS:
        return getattr(import_module(f"{__name__}.{_ESTIMATORS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
