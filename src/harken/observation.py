"""Observation: layers emit what happens inside them by name; whoever observes a model collects it.

A layer calls :func:`emit` with itself, a name and a value (or a function that makes the value, so that nothing is
computed for nobody). Without an observer that is one truth test. Names in use: ``weights`` (attention maps), ``gate``,
``mask``, ``routing``, ``codes``, and ``loss`` (auxiliary losses, which training adds to its own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock, get_ident

import torch
from torch import Tensor, nn

Value = Tensor | Callable[[], Tensor]


class Seen:
    """What one ``observe`` block has collected: a list of ``(path, name, tensor)``, in the order of emission.

    ``seen["weights"]`` maps each module's path to its last tensor; ``seen.all("loss")`` lists every emission.
    """

    def __init__(self, model: nn.Module, names: tuple[str, ...]):
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._names = frozenset(names)
        self._thread = get_ident()
        self.entries: list[tuple[str, str, Tensor]] = []

    def _offer(self, module: nn.Module, name: str, value: Value) -> None:
        path = self._paths.get(id(module))
        if path is None or (self._names and name not in self._names):
            return
        self.entries.append((path, name, value() if callable(value) else value))

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        return {path: value for path, its_name, value in self.entries if its_name == name}

    def all(self, name: str) -> list[Tensor]:
        """Every tensor emitted under ``name``, in order."""
        return [value for _, its_name, value in self.entries if its_name == name]

    def total(self, name: str = "loss") -> Tensor | float:
        """The sum of what was emitted under ``name``; 0.0 when nothing was."""
        return sum((value.sum() for value in self.all(name)), 0.0)


# A plain tuple, replaced and never mutated: torch.compile guards on it (a ContextVar would break its graph), so a
# compiled model costs nothing while nobody looks and is traced once more when somebody does.
_observers: tuple[Seen, ...] = ()
_changing = Lock()


def emit(module: nn.Module, name: str, value: Value) -> None:
    """Offer ``value`` under ``name`` to everyone, in this thread, who observes a model that contains ``module``."""
    if _observers:
        for seen in _observers:
            if torch.compiler.is_compiling() or seen._thread == get_ident():
                seen._offer(module, name, value)


def is_observed() -> bool:
    """Whether anybody observes any model now: what has a faster way that emits nothing asks before it takes it."""
    return bool(_observers)


@contextmanager
def observe(model: nn.Module, *names: str) -> Iterator[Seen]:
    """Collect what ``model``'s layers emit under ``names`` (all names when none is given) in the current thread.

    >>> import torch, harken
    >>> layer = harken.create_attention("softmax", dim=8, heads=2)
    >>> with harken.observe(layer, "weights") as seen:
    ...     _ = layer(torch.randn(1, 5, 8))
    >>> seen["weights"][""].shape
    torch.Size([1, 2, 5, 5])
    """
    global _observers
    seen = Seen(model, names)
    with _changing:
        _observers = (*_observers, seen)
    try:
        yield seen
    finally:
        with _changing:
            _observers = tuple(other for other in _observers if other is not seen)
