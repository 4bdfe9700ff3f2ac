"""The type checker under which the tests run harken's signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from beartype import BeartypeConf, FrozenDict, beartype

# jaxtyping decorates methods one by one, where Self has no class to stand for
checked: Callable[..., Any] = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any})))
