"""Makes the docstrings, which are written to be read in the source, read as well on a page."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"^>>> .*\n(?:(?!\s*$).*\n?)*", re.M)
_ROLE = re.compile(r":(?:func|class|mod|meth|attr):`~?([^`]+)`")


class Docstrings(griffe.Extension):
    """Fences doctests as code and shows Sphinx roles as names."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of whatever was found."""
        if obj.docstring is not None:
            text = _ROLE.sub(r"`\1`", obj.docstring.value) + "\n"
            obj.docstring.value = _DOCTEST.sub(lambda match: f"```pycon\n{match[0].rstrip()}\n```\n", text).rstrip()
