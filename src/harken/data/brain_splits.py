"""Training and test trials that share no recording: within a session, across sessions, across subjects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
from jaxtyping import Int

from harken.data.brain import Trials
from harken.errors import InputError

Split = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]
SplitName = Literal["within-session", "cross-session", "cross-subject"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)


def within_session(trials: Trials, folds: int = 5) -> list[Split]:
    """Folds of neighbours: each session's trials of each class, in the order recorded, fall into ``folds`` stretches.

    Neighbouring trials share drift and fatigue; a random split would put one of them on either side.

    Raises:
        InputError: a class has fewer trials in a session than there are folds.
    """
    fold = np.zeros(len(trials), np.int64)
    for subject, session in _recordings(trials):
        for label in range(len(trials.classes)):
            here = (trials.subject == subject) & (trials.session == session) & (trials.y == label)
            index = np.flatnonzero(here)
            if 0 < len(index) < folds or folds < 2:
                raise InputError(
                    f"class '{trials.classes[label]}' has {len(index)} trials in a session: too few for {folds} folds"
                )
            fold[index] = np.arange(len(index)) * folds // max(1, len(index))
    return [(np.flatnonzero(fold != number), np.flatnonzero(fold == number)) for number in range(folds)]


def cross_session(trials: Trials) -> list[Split]:
    """Each session judged by what was learned from all the others, of all subjects' trials in them.

    Raises:
        InputError: there is one session only.
    """
    return _leave_one_out(trials.session, "session", "--split within-session")


def cross_subject(trials: Trials) -> list[Split]:
    """Each subject judged by what was learned from all the others.

    Raises:
        InputError: there is one subject only.
    """
    return _leave_one_out(trials.subject, "subject", "--split cross-session or within-session")


def split_trials(trials: Trials, split: str, folds: int = 5) -> list[Split]:
    """The folds of a split by its name.

    Raises:
        InputError: no split has that name, or the trials do not allow it.
    """
    ways: dict[str, Callable[[], list[Split]]] = {
        "within-session": lambda: within_session(trials, folds),
        "cross-session": lambda: cross_session(trials),
        "cross-subject": lambda: cross_subject(trials),
    }
    if split not in ways:
        raise InputError(f"no split named '{split}': one of {', '.join(SPLITS)}")
    return ways[split]()


def _leave_one_out(groups: np.ndarray, what: str, instead: str) -> list[Split]:
    known = np.unique(groups)
    if len(known) < 2:
        raise InputError(f"there is one {what} only: give files of several, or {instead}")
    return [(np.flatnonzero(groups != one), np.flatnonzero(groups == one)) for one in known]


def _recordings(trials: Trials) -> list[tuple[int, int]]:
    return sorted(set(zip(trials.subject.tolist(), trials.session.tolist(), strict=True)))
