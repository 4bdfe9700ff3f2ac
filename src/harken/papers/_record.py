"""What harken keeps about a paper: where it comes from, where it lives here, what it claims and what was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from torch import Tensor

    Replay = Callable[[Path], dict[str, Tensor]]
else:
    Replay = Callable  # listing the papers must not import torch

Kind = Literal["attention", "model", "lens", "score", "hardware"]
Status = Literal["works", "partial", "planned"]
Verdict = Literal["holds", "holds in direction", "not shown here", "fails here"]
Progress = Callable[[float, str], None]

KINDS: tuple[Kind, ...] = get_args(Kind)
STATUSES: tuple[Status, ...] = get_args(Status)
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Evidence:
    """What one run of a claim found.

    Args:
        measured: the numbers of the system, named with their units (``"wb_pesq"``, ``"seconds_per_token"``).
        baseline: the same numbers of what it is compared with.
        verdict: ``holds`` (the paper's size of effect, or near it), ``holds in direction`` (smaller, same sign),
            ``not shown here`` (the experiment cannot tell), ``fails here`` (the opposite).
        summary: one sentence a reader can quote: what was compared on what, and what came out.
        settings: sizes, steps, data and lengths of the experiment, so that another can repeat it.
    """

    measured: Mapping[str, float]
    baseline: Mapping[str, float]
    verdict: Verdict
    summary: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, and the scaled-down experiment that tests it.

    ``run(seed, quick, progress)`` does the experiment together with its baseline and judges it. ``quick`` asks for a
    smoke test of seconds, whose numbers mean nothing; ``progress(done, note)`` may be called with a share in [0, 1].

    Args:
        name: what its record is filed under: lower case, digits and hyphens.
        statement: the claim in our words.
        source: where the paper makes it (a section, table or figure).
        paper_value: what the paper reports, with its unit and setting.
        run: the experiment.
    """

    name: str
    statement: str
    source: str
    paper_value: str
    run: Callable[[int, bool, Progress], Evidence]


@dataclass(frozen=True)
class Paper:
    """One of the papers that harken implements.

    Args:
        slug: its name throughout harken.
        title: as published.
        arxiv: arXiv identifier; None where we know of none.
        repository: the authors' code, ``owner/name`` on GitHub; None where they published none.
        licence: of the authors' code.
        kind: what it is to harken, one or several of :data:`KINDS`.
        rooms: the files or folders that hold it, under ``src/harken``.
        reached_by: the commands or calls by which a user meets it.
        model: ``module:class`` of the model or mechanism, once it exists.
        status: ``works`` (matches its reference tensors, does its job on real input, claims run), ``partial``, or
            ``planned``.
        missing: what a ``partial`` one lacks.
        claims: what the paper says that can be tested here.
        replay: runs our model on a parity case (:mod:`harken.papers.parity`) and returns its outputs by name.
        angles: outputs of the replay that are phases in radians, compared modulo 2 pi.
        relative: outputs whose values run over many magnitudes, compared relative to the largest that was saved.
        related: further arXiv identifiers: earlier versions, sequels, baselines.
        cases: parity cases of other slugs that this paper's replay answers too.
    """

    slug: str
    title: str
    arxiv: str | None
    repository: str | None
    licence: str
    kind: tuple[Kind, ...]
    rooms: tuple[str, ...]
    reached_by: tuple[str, ...]
    model: str = ""
    status: Status = "planned"
    missing: str = ""
    claims: tuple[Claim, ...] = ()
    replay: Replay | None = None
    angles: tuple[str, ...] = ()
    relative: tuple[str, ...] = ()
    related: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()

    @property
    def url(self) -> str | None:
        """Where to read it."""
        return None if self.arxiv is None else f"https://arxiv.org/abs/{self.arxiv}"

    @property
    def repository_url(self) -> str | None:
        """The authors' code."""
        return None if self.repository is None else f"https://github.com/{self.repository}"

    @property
    def verbs(self) -> tuple[str, ...]:
        """The verbs that reach it: ``enhance`` for ``harken enhance``, ``create_attention`` for a mechanism.

        >>> from harken.papers import get_paper
        >>> get_paper("periodwave").verbs
        ('speak', 'vocode')
        """
        words = (call.removeprefix("harken ").replace("(", " ").split()[0] for call in self.reached_by)
        return tuple(dict.fromkeys(words))
