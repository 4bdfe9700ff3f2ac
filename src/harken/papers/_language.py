"""The language model that claims share: bytes of Python's library, a small decoder, one budget for all candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from torch import nn

    from harken.data.attention_tasks import AttentionTask
    from harken.papers._record import Progress
    from harken.papers._trials import Finding, Trials
    from harken.tasks.small_training import Budget, Loss


@dataclass(frozen=True)
class Language:
    """Task, sizes and budget that every candidate of a claim is given alike.

    Attributes:
        task, length: what :func:`harken.data.attention_tasks.make_task` makes; ``"code"`` holds out whole files.
        steps, batch, lr: of :class:`harken.tasks.small_training.Budget`.
        dim, layers, heads: of :meth:`decoder`.

    >>> language = Language(steps=10).for_run(quick=True)
    >>> language.decoder("span:span_size=4", "softmax")().config.attention
    ('span:span_size=4', 'softmax')
    """

    task: str = "code"
    length: int = 128
    steps: int = 400
    batch: int = 8
    lr: float = 2e-3
    dim: int = 64
    layers: int = 4
    heads: int = 4

    def for_run(self, quick: bool) -> Self:
        """Itself, or so small that a smoke test takes no time; as many layers, which mixes of them may count on."""
        if not quick:
            return self
        return replace(self, length=min(self.length, 16), steps=1, batch=128, dim=2 * self.heads)

    def decoder(self, *attention: str, **choices: Any) -> Callable[[], nn.Module]:
        """What builds a decoder with these mechanisms taking turns; ``choices`` are of its configuration."""

        def build() -> nn.Module:
            from harken.models.write.decoder import Decoder, DecoderConfig

            sizes = {"dim": self.dim, "layers": self.layers, "heads": self.heads}
            return Decoder(DecoderConfig(**{**sizes, "attention": attention or ("softmax",), **choices}))

        return build

    def make_task(self) -> AttentionTask:
        """The task at this length."""
        from harken.data.attention_tasks import make_task

        return make_task(self.task, self.length)

    @property
    def budget(self) -> Budget:
        """Steps, batch and learning rate."""
        from harken.tasks.small_training import Budget

        return Budget(self.steps, self.batch, self.lr)

    def compare(
        self,
        candidates: Mapping[str, Callable[[], nn.Module]],
        seeds: Sequence[int],
        progress: Progress,
        *,
        losses: Mapping[str, Loss] | None = None,
        done: float = 0.0,
        share: float = 1.0,
    ) -> Trials:
        """:func:`harken.papers._trials.run_trials` on this task and budget."""
        from harken.papers._trials import run_trials

        task = self.make_task()
        return run_trials(candidates, task, self.budget, seeds, progress, losses=losses, done=done, share=share)

    def settings(self, seeds: Sequence[int], rule: str, **others: Any) -> dict[str, Any]:
        """For the evidence: data, sizes, budget, seeds and the rule of the verdict."""
        about = {
            "code": "bytes of Python's library, every tenth file held out",
            "image": "scikit-learn's digits, pixel by pixel; the last 300, by other writers, held out",
            "document": "eight packages of Python's library, every fourth file held out",
        }
        return {
            "data": about.get(self.task, self.task),
            "length": self.length,
            "steps": self.steps,
            "batch": self.batch,
            "learning_rate": self.lr,
            "dim": self.dim,
            "layers": self.layers,
            "heads": self.heads,
            "seeds": list(seeds),
            **others,
            "rule": rule,
        }


def orders(trials: Trials, pairs: Sequence[tuple[str, str]], margin: float) -> dict[str, Finding]:
    """What each pair ``(better, worse)`` of a paper's ordering turned out to be here.

    >>> from harken.papers._trials import Trials
    >>> orders(Trials("bits_per_byte", {"gate": [2.0], "no_gate": [2.5]}), [("gate", "no_gate")], margin=0.1)
    {'gate before no_gate': 'better'}
    """
    return {f"{first} before {second}": trials.finding(first, than=second, margin=margin) for first, second in pairs}


def orders_text(found: Mapping[str, Finding]) -> str:
    """How many of an ordering's pairs came out so, and which did not.

    >>> orders_text({"a before b": "better", "b before c": "unclear"})
    '1 of 2 comparisons as in the paper; unclear: b before c'
    """
    text = f"{sum(f == 'better' for f in found.values())} of {len(found)} comparisons as in the paper"
    for finding, word in (("unclear", "unclear"), ("worse", "reversed")):
        if those := [pair for pair, f in found.items() if f == finding]:
            text += f"; {word}: {', '.join(those)}"
    return text
