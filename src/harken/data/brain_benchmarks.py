"""Public benchmarks of brain-computer interfaces as trials, downloaded and cut by MOABB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harken.data.brain import Trials
from harken.data.brain_files import sensor_positions
from harken.errors import InputError, MissingExtraError

PARADIGMS = ("LeftRightImagery", "MotorImagery", "SSVEP", "FilterBankSSVEP", "P300", "RestingStateToP300Adapter")


def benchmark_trials(
    dataset: str | Any,
    paradigm: str | Any = "LeftRightImagery",
    subjects: Sequence[int] | None = None,
    **options: Any,
) -> Trials:
    """Trials of a benchmark, its subjects and sessions kept apart; the first call downloads it.

    Args:
        dataset: the name of a class of ``moabb.datasets``, such as ``"BNCI2014_001"`` or ``"Nakanishi2015"``, or an
            instance.
        paradigm: the name of a class of ``moabb.paradigms``, or an instance.
        subjects: which, by number; all when None.
        **options: of the paradigm: ``fmin``, ``fmax``, ``tmin``, ``tmax``, ``resample``, ``channels``, ``n_classes``.

    Returns:
        Trials in volts with the names and places of their electrodes.

    Raises:
        MissingExtraError: moabb is not installed.
        InputError: no such dataset, paradigm or subject, or the two do not fit.
    """
    try:
        from moabb import datasets, paradigms
    except ImportError:
        raise MissingExtraError("moabb", extra="moabb") from None
    source = _made(datasets, dataset, "dataset", {})
    way = _made(paradigms, paradigm, "paradigm", options)
    if subjects is not None and (unknown := sorted(set(subjects) - set(source.subject_list))):
        raise InputError(
            f"{dataset} has no subject {unknown[0]}: it has {source.subject_list[0]} to {source.subject_list[-1]}"
        )
    try:
        epochs, labels, about = way.get_data(
            source, subjects=None if subjects is None else list(subjects), return_epochs=True
        )
    except (AssertionError, ValueError, KeyError) as error:
        raise InputError(
            f"{dataset} cannot be read as {paradigm}: {str(error)[:150] or type(error).__name__}"
        ) from None
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    sessions = {name: number for number, name in enumerate(sorted(set(about["session"].astype(str))))}
    return Trials(
        x=epochs.get_data(copy=False).astype(np.float32),
        y=y,
        classes=tuple(str(name) for name in classes),
        sfreq=float(epochs.info["sfreq"]),
        ch_names=tuple(epochs.ch_names),
        subject=about["subject"].to_numpy(np.int64),
        session=np.array([sessions[name] for name in about["session"].astype(str)]),
        positions=sensor_positions(epochs.info),
    )


def _made(module: Any, given: str | Any, what: str, options: dict[str, Any]) -> Any:
    if not isinstance(given, str):
        return given
    kind = getattr(module, given, None)
    if given.startswith("_") or not isinstance(kind, type):
        raise InputError(f"moabb has no {what} named '{given}': its documentation lists them")
    try:
        return kind(**options)
    except TypeError as error:
        raise InputError(f"{given} does not take that: {str(error)[:120]}") from None
